object d6016b220b2424bba5cd0283c4a12d36a65474ca
type commit
tag subrevoked
tagger A <a@example.com> 1767225600 +0000

signed by subrevoked
-----BEGIN PGP SIGNATURE-----

iI0EABYIADUWIQTsN/TyFBc/oYld4DDrOunNKoTMsAUCZZNSABccc3VicmV2b2tl
ZEBleGFtcGxlLmNvbQAKCRDrOunNKoTMsC08AP9BUlRYGHfZ+MzJnsqmTfVTx8Dw
hy4HDBWJf3FrDisIHgEAg4IeBQYzAkwkNmfxOxEzn/FX6bYuNcU0hhIbOgF0FwA=
=7RDW
-----END PGP SIGNATURE-----
