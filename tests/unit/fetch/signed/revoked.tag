object 2477b54bbc0f0cc50efbbe4473f93c86c04f28a6
type commit
tag revoked
tagger A <a@example.com> 1767225600 +0000

signed by revoked
-----BEGIN PGP SIGNATURE-----

iIoEABYIADIWIQSP7LCXGE7y/4TCeCAswF+FLMITvgUCZZNSABQccmV2b2tlZEBl
eGFtcGxlLmNvbQAKCRAswF+FLMITviK/AP9zWc3AitCnoA3n80crflu/f4Xllomw
7EL4quNk6w8xnAD/WIcP65tQE4bDPosrIgsHG60GaFPwsjS6H17++gFbZAY=
=ryKj
-----END PGP SIGNATURE-----
