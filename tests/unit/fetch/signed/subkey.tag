object 3613a91564d01305a949e78c9370712aba058538
type commit
tag subkey
tagger A <a@example.com> 1767225600 +0000

signed by subkey
-----BEGIN PGP SIGNATURE-----

iIkEABYIADEWIQRcRfQAHywUhH6kZ1hJg/jv1Pc4vwUCZZNSABMcc3Via2V5QGV4
YW1wbGUuY29tAAoJEEmD+O/U9zi/c4cA/09hvZSNd9VLITWOplCPiSNk5kZb99on
zz4WdGM+4chGAP4vcqDoKXoipYe/euWwSQ2atNYfrEuapdKKclCb6cTxBQ==
=/vW9
-----END PGP SIGNATURE-----
