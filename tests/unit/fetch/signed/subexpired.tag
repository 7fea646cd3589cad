object 6b6d9e3433ca59ceb0c4f09a29eb0cbba802495f
type commit
tag subexpired
tagger A <a@example.com> 1767225600 +0000

signed by subexpired
-----BEGIN PGP SIGNATURE-----

iI0EABYIADUWIQS+drdRyEm2VeIDoWKhJKUeiH+XpQUCXtRFABccc3ViZXhwaXJl
ZEBleGFtcGxlLmNvbQAKCRChJKUeiH+XpTdNAQCMz4QosKPO1d02AmqlC6y7XeCf
fy7XwcLl8xatLEkRWAEAk8zv0DAZMZHpN4kb10+qxHUHWKQALFzt0B75/EM6DQs=
=Of51
-----END PGP SIGNATURE-----
