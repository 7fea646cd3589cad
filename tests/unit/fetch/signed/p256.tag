object 659fabaf4ce787d91df30d197a8089028e7e00e8
type commit
tag p256
tagger A <a@example.com> 1767225600 +0000

signed by p256
-----BEGIN PGP SIGNATURE-----

iIcEABMIAC8WIQTYt4rwbPPRdn/NnOnifkBwlBS/gQUCZZNSABEccDI1NkBleGFt
cGxlLmNvbQAKCRDifkBwlBS/gc3AAP90gmd+WraZznXw+VQs53hPuKBVMnvUad11
L3h63cFNCQD/cGpcgEhfg6aP2griNNMNjzXkGaCA4QoYyVuV9tfcvH8=
=TKux
-----END PGP SIGNATURE-----
