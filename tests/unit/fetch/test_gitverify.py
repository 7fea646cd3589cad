"""Objects in `signed/` were made by git with GnuPG 2.2 and OpenSSH 9.2; all others are signed on the spot."""

from __future__ import annotations

import base64
import hashlib
import random
import struct
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pysequoia
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gitopsd.fetch.gitkeys import MOST_KEYS, KeysError, TrustedKeys, fingerprint
from gitopsd.fetch.gitsigned import SignatureError, is_signed_tag, split_commit, split_tag, tag_hash
from gitopsd.fetch.gitverify import verify_commit, verify_tag
from tests.signing import PgpSigner, SshSigner, commit_object, signed_commit, signed_tag, tag_object, with_header

SIGNED = Path(__file__).with_name("signed")
PGP = PgpSigner()
SSH = SshSigner()
COMMIT = commit_object()
TAG = tag_object("a" * 40, "v1.0.0")
VERIFY = {"commit": verify_commit, "tag": verify_tag}


def made(name):
    return (SIGNED / name).read_bytes()


def keys_of(*signers):
    return TrustedKeys.read({signer.entry: signer.public for signer in signers})


def refused(raw, keys, verify=verify_commit, **more):
    with pytest.raises(SignatureError) as caught:
        verify(raw, keys, **more)
    return str(caught.value)


# -- what git makes ----------------------------------------------------------------------------------------------------

WHO = {
    "rsa.asc": "C526326542BCEF5D",
    "ed25519.asc": "A9D262381E6D97FF",
    "p256.asc": "E27E40709414BF81",
    "subkey.asc": "2547AA141AA77349",  # signed by a subkey, told by the primary key
    "ssh-ed25519.sshpub": "SHA256:qSfuagQvphq8OfU2VfUhyHbGppzSkeBOGg7C+RJKOH4",
    "ssh-rsa.sshpub": "SHA256:i+hiZPN1E1DPAJWGnQyuDq6+Xvqj2UNYgovyCyKgoLY",
    "ssh-ecdsa.sshpub": "SHA256:JyEUc5ztwg73j08veBLQzcvUdplIqjGE5n87q9Pxyhc",
}


@pytest.mark.parametrize("kind", ["commit", "tag"])
@pytest.mark.parametrize("entry", WHO)
def test_s5_6_what_git_signs_is_verified_and_the_key_is_named(entry, kind):
    raw = made(f"{Path(entry).stem}.{kind}")
    assert VERIFY[kind](raw, TrustedKeys.read({entry: made(entry)})) == WHO[entry]
    everything = TrustedKeys.read({name: made(name) for name in WHO})
    assert VERIFY[kind](raw, everything) == WHO[entry]


@pytest.mark.parametrize("kind", ["commit", "tag"])
@pytest.mark.parametrize("entry", WHO)
def test_D01_one_changed_byte_is_found_out(entry, kind):
    raw = made(f"{Path(entry).stem}.{kind}").replace(b"signed by", b"Signed by")
    assert "does not fit" in refused(raw, TrustedKeys.read({entry: made(entry)}), VERIFY[kind])


@pytest.mark.parametrize("kind", ["commit", "tag"])
@pytest.mark.parametrize(
    ("name", "entry", "why"),
    [
        ("expired", "expired.asc", "key 9FA0F6097F73BF79 has expired"),
        ("revoked", "revoked.asc", "key 2CC05F852CC213BE is revoked"),
        ("subexpired", "subexpired.asc", "key 07EFD30B90F972D3 has expired"),
        ("subrevoked", "subrevoked.asc", "key 8DD88A67B875F62F is revoked"),
        ("sha1self", "sha1self.asc", "key 351AD1C77CB90D43 cannot be trusted any more: no self-signature of it counts"),
        ("sha1sig", "rsa.asc", "it does not fit, or key C526326542BCEF5D or its algorithms cannot be trusted any more"),
        ("rsa", "p256.asc", "it was made by key C526326542BCEF5D, which is not trusted"),
        ("rsa", "ssh-rsa.sshpub", "it was made by key C526326542BCEF5D, which is not trusted"),
        (
            "ssh-rsa",
            "ssh-ecdsa.sshpub",
            "it was made by key SHA256:i+hiZPN1E1DPAJWGnQyuDq6+Xvqj2UNYgovyCyKgoLY, which is not trusted",
        ),
    ],
)
def test_D01_keys_that_are_not_good_today_are_named(name, entry, why, kind):
    assert refused(made(f"{name}.{kind}"), TrustedKeys.read({entry: made(entry)}), VERIFY[kind]) == why


def test_D01_a_key_expires_although_its_signature_was_made_before():
    keys = TrustedKeys.read({"k.asc": made("expired.asc")})
    ends = datetime(2020, 12, 31, tzinfo=UTC)
    assert verify_commit(made("expired.commit"), keys, ends - timedelta(days=1)) == "9FA0F6097F73BF79"
    assert refused(made("expired.commit"), keys, now=ends + timedelta(days=1)).endswith("has expired")


# -- what covers what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [PGP, SSH], ids=["pgp", "ssh"])
def test_s5_6_the_message_may_be_anything(signer):
    for raw in (
        COMMIT,
        COMMIT + b"\n\ntext\r\nwith -----BEGIN PGP SIGNATURE-----\n and more",
        COMMIT.replace(b"change", b""),
        COMMIT.replace(b"change", b"\xff\xfe\0 gpgsig \n gpgsig x"),
        COMMIT.replace(b"\n\n", b"\nencoding latin1\n\n"),
    ):
        assert verify_commit(signed_commit(raw, signer), keys_of(signer)) == signer.shown


def test_B11_a_huge_message_is_verified_up_to_a_bound():
    """Hashing keeps the event loop waiting: what nobody would write is not hashed at all."""
    raw = COMMIT + b"x" * ((16 << 20) - len(signed_commit(COMMIT, SSH)))
    assert verify_commit(signed_commit(raw, SSH), keys_of(SSH)) == SSH.shown
    text = f"it is larger than {16 << 20} bytes"
    assert refused(signed_commit(raw + b"x", SSH), keys_of(SSH)) == text
    assert refused(TAG + b"x" * (16 << 20), keys_of(SSH), verify_tag) == text


@pytest.mark.parametrize("kind", ["PGP", "SSH"])
def test_D03_a_signature_without_end_is_not_read(kind):
    text = f"-----BEGIN {kind} SIGNATURE-----\n\n" + "A" * (1 << 20) + f"\n-----END {kind} SIGNATURE-----"
    assert refused(with_header(COMMIT, text.encode()), keys_of(PGP)) == "the signature is longer than 1048576 bytes"


def test_D03_a_signature_of_millions_of_lines_takes_linear_time():
    raw = COMMIT.replace(b"\n\n", b"\ngpgsig x\n" + b" \n" * 5_000_000 + b"\n", 1)
    assert refused(raw, keys_of(PGP)) == "unsupported signature type: unknown"


def test_s5_6_a_signature_for_the_other_hash_is_left_out_too():
    raw = with_header(signed_commit(COMMIT, PGP), b"of another form", b"gpgsig-sha256")
    assert verify_commit(raw, keys_of(PGP)) == PGP.shown
    tag = signed_tag(TAG, SSH).replace(b"\n\n", b"\ngpgsig-sha256 of another form\n second line\n\n", 1)
    assert verify_tag(tag, keys_of(SSH)) == SSH.shown


def test_s5_6_a_header_within_another_header_is_covered():
    merged = b"mergetag object " + b"b" * 40 + b"\n type commit\n tag x\n gpgsig inside\n"
    raw = COMMIT.replace(b"\n\n", b"\n" + merged + b"\n", 1)
    assert verify_commit(signed_commit(raw, PGP), keys_of(PGP)) == PGP.shown
    changed = signed_commit(raw, PGP).replace(b" gpgsig inside", b" gpgsig beside")
    assert "does not fit" in refused(changed, keys_of(PGP))


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (COMMIT, "empty"),
        (COMMIT + PGP.sign(COMMIT), "empty"),  # in the message
        (b"tree " + b"a" * 40 + b"\n", "empty"),
        (with_header(COMMIT, b""), "empty"),
        (with_header(COMMIT, b"-----BEGIN SIGNED MESSAGE-----\nMIAG\n-----END SIGNED MESSAGE-----"), "x509"),
        (with_header(COMMIT, b"-----BEGIN PGP MESSAGE-----\n\nMIAG\n-----END PGP MESSAGE-----"), "unknown"),
        (with_header(COMMIT, b"signed, me"), "unknown"),
        (with_header(COMMIT, PGP.sign(COMMIT), b"gpgsig-sha256"), "empty"),
        (with_header(COMMIT, PGP.sign(COMMIT), b"GPGSIG"), "empty"),
    ],
)
def test_s5_6_D01_D03_unsigned_commits_and_other_signatures_are_named(raw, kind):
    assert refused(raw, keys_of(PGP, SSH)) == f"unsupported signature type: {kind}"


@pytest.mark.parametrize(
    "raw",
    [
        with_header(signed_commit(COMMIT, PGP), PGP.sign(COMMIT)),
        with_header(signed_commit(COMMIT, PGP), SSH.sign(COMMIT)),
        with_header(with_header(signed_commit(COMMIT, PGP), b"x", b"gpgsig-sha256"), b"y", b"gpgsig-sha256"),
    ],
)
def test_D03_two_signature_headers_are_refused(raw):
    assert refused(raw, keys_of(PGP, SSH)) == "it has more than one signature header"


@pytest.mark.parametrize("signer", [PGP, SSH], ids=["pgp", "ssh"])
def test_D03_the_bytes_count_and_not_what_they_mean(signer):
    """Another order of headers, another spelling of the same date: another object."""
    good = signed_commit(COMMIT, signer)
    for old, new in ((b"+0000\ncommitter", b"-0000\ncommitter"), (b"change\n", b"change"), (b"\n\n", b"\n\n\n")):
        assert "does not fit" in refused(good.replace(old, new, 1), keys_of(signer))
    lines = COMMIT.split(b"\n")
    lines[1], lines[2] = lines[2], lines[1]
    swapped = with_header(b"\n".join(lines), signer.sign(COMMIT))
    assert "does not fit" in refused(swapped, keys_of(signer))


@pytest.mark.parametrize("signer", [PGP, SSH], ids=["pgp", "ssh"])
@pytest.mark.parametrize("more", [b"\nmore", b"\n\nText that nobody signed", b"x"])
def test_D03_text_after_a_signature_is_refused(signer, more):
    keys = keys_of(signer)
    assert "does not end where it should" in refused(with_header(COMMIT, signer.sign(COMMIT).strip() + more), keys)
    assert "does not end where it should" in refused(signed_tag(TAG, signer).strip() + more, keys, verify_tag)
    twice = with_header(COMMIT, signer.sign(COMMIT).strip() + b"\n" + signer.sign(COMMIT))
    assert "does not end where it should" in refused(twice, keys)


@pytest.mark.parametrize("signer", [PGP, SSH], ids=["pgp", "ssh"])
def test_D02_a_signature_of_another_tag_is_refused(signer):
    other = tag_object("b" * 40, "v2.0.0")
    assert verify_tag(signed_tag(other, signer), keys_of(signer)) == signer.shown
    assert "does not fit" in refused(TAG + signer.sign(other), keys_of(signer), verify_tag)
    assert "does not fit" in refused(TAG + signer.sign(COMMIT), keys_of(signer), verify_tag)


def test_D02_tags_without_a_signature_are_told_apart():
    assert not is_signed_tag(b"")  # a lightweight tag
    assert not is_signed_tag(TAG)
    assert not is_signed_tag(TAG.replace(b"release", b"see -----BEGIN PGP SIGNATURE-----"))
    assert not is_signed_tag(with_header(TAG, PGP.sign(TAG)))
    assert is_signed_tag(signed_tag(TAG, PGP))
    assert is_signed_tag(signed_tag(TAG, SSH))
    assert is_signed_tag(TAG + b"-----BEGIN SIGNED MESSAGE-----\n")
    assert refused(TAG + b"-----BEGIN SIGNED MESSAGE-----\n", keys_of(PGP), verify_tag).endswith("type: x509")
    assert refused(TAG, keys_of(PGP), verify_tag) == "unsupported signature type: empty"


def test_s5_6_of_several_signatures_in_a_tag_the_last_one_covers_the_others():
    raw = signed_tag(signed_tag(TAG, SSH), PGP)
    assert split_tag(raw).payload == signed_tag(TAG, SSH)
    assert verify_tag(raw, keys_of(PGP)) == PGP.shown
    assert "not trusted" in refused(raw, keys_of(SSH), verify_tag)


def test_s5_6_the_hash_of_a_tag_is_that_of_its_object():
    assert tag_hash(b"x") == hashlib.sha1(b"tag 1\0x").hexdigest()


def test_s5_6_splitting_loses_nothing():
    signature = PGP.sign(COMMIT).strip()
    signed = split_commit(with_header(COMMIT, signature))
    assert (signed.payload, signed.signature.strip()) == (COMMIT, signature)


# -- SSH ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("ssh-ed25519", {}),
        ("ecdsa-sha2-nistp256", {}),
        ("ecdsa-sha2-nistp384", {}),
        ("ecdsa-sha2-nistp521", {}),
        ("ssh-rsa", {"key_size": 2048}),
    ],
)
def test_s5_6_ssh_keys_of_every_kind_verify(algorithm, options, hash_name):
    signer = SshSigner(algorithm=algorithm, **options)
    raw = with_header(COMMIT, signer.sign(COMMIT, hash_name=hash_name))
    assert verify_commit(raw, keys_of(signer)) == signer.shown


def ssh_armor(key, namespace, hash_name, signature):
    parts = (key, namespace, b"", hash_name, signature)
    raw = b"SSHSIG\0\0\0\x01" + b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return b"-----BEGIN SSH SIGNATURE-----\n" + base64.encodebytes(raw) + b"-----END SSH SIGNATURE-----"


def strings(*parts):
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def test_s5_6_security_keys_verify():
    """The touch of a key is not asked for, as OpenSSH does not ask either unless told to."""
    private, application = Ed25519PrivateKey.generate(), b"ssh:"
    blob = strings(b"sk-ssh-ed25519@openssh.com", private.public_key().public_bytes_raw(), application)
    data = b"SSHSIG" + strings(b"git", b"", b"sha512", hashlib.sha512(COMMIT).digest())
    covered = hashlib.sha256(application).digest() + b"\x01\0\0\0\x05" + hashlib.sha256(data).digest()
    made = strings(b"sk-ssh-ed25519@openssh.com", private.sign(covered)) + b"\x01\0\0\0\x05"
    line = b"sk-ssh-ed25519@openssh.com " + base64.b64encode(blob) + b" me"
    keys = TrustedKeys.read({"a.sshpub": line})
    shown = verify_commit(with_header(COMMIT, ssh_armor(blob, b"git", b"sha512", made)), keys)
    assert shown == "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    assert "does not fit" in refused(with_header(COMMIT + b"x", ssh_armor(blob, b"git", b"sha512", made)), keys)


def test_s5_6_an_ssh_signature_for_something_else_is_refused():
    for namespace in ("file", "Git", "git "):
        raw = with_header(COMMIT, SSH.sign(COMMIT, namespace=namespace))
        assert refused(raw, keys_of(SSH)) == "it was not made for git"


def test_D01_ssh_signatures_by_sha1_and_by_short_keys_are_refused():
    signer = SshSigner(algorithm="ssh-rsa", key_size=2048)
    data = b"SSHSIG" + strings(b"git", b"", b"sha512", hashlib.sha512(COMMIT).digest())
    raw = with_header(COMMIT, ssh_armor(signer.key.public_data, b"git", b"sha512", signer.key.sign(data, b"ssh-rsa")))
    assert refused(raw, keys_of(signer)) == "it was made by an algorithm that is not trusted"
    md5 = ssh_armor(signer.key.public_data, b"git", b"md5", signer.key.sign(data, b"rsa-sha2-512"))
    assert refused(with_header(COMMIT, md5), keys_of(signer)) == "it was made by an algorithm that is not trusted"
    short = SshSigner(algorithm="ssh-rsa", key_size=1024)
    assert refused(signed_commit(COMMIT, short), keys_of(short)).endswith("is shorter than 2048 bits")


def test_D01_an_ssh_certificate_is_not_its_key():
    """Whoever trusts a key does not trust what somebody certified, and certificates cannot be trusted by a Secret."""
    authority = asyncssh.generate_private_key("ssh-ed25519")
    certificate = authority.generate_user_certificate(SSH.key, "me", principals=["me"])
    pair = asyncssh.load_keypairs([(SSH.key, certificate)])[0]
    raw = with_header(COMMIT, asyncssh.create_sshsig(pair, COMMIT, namespace="git"))
    assert "not trusted" in refused(raw, keys_of(SSH))


def test_D01_numbers_that_no_key_and_no_signature_has_are_refused():
    signer = SshSigner(algorithm="ecdsa-sha2-nistp256")
    for number in (b"", b"\xff", b"\0", b"\x7f" * 100):
        made = strings(b"ecdsa-sha2-nistp256", strings(number, number))
        raw = with_header(COMMIT, ssh_armor(signer.key.public_data, b"git", b"sha512", made))
        assert "does not fit" in refused(raw, keys_of(signer))
        blob = base64.b64encode(strings(b"ssh-rsa", number, number))
        with pytest.raises(KeysError):
            TrustedKeys.read({"a.sshpub": b"ssh-rsa " + blob})


def broken_ssh():
    good = SSH.sign(COMMIT)
    lines = good.strip().split(b"\n")
    yield b"\n".join([lines[0], b"!!!!", lines[-1]])
    yield b"\n".join([lines[0], lines[-1]])
    yield b"\n".join([lines[0], base64.b64encode(b"SSHSIG\0\0\0\x02" + b"\0" * 40), lines[-1]])
    raw = base64.b64decode(b"".join(lines[1:-1]))
    for changed in (raw[:-1], raw + b"x", raw[:20], b"SSHSIG\0\0\0\x01\xff\xff\xff\xff", raw[:10] + b"\0" * 20):
        yield b"\n".join([lines[0], base64.b64encode(changed), lines[-1]])


@pytest.mark.parametrize("signature", list(broken_ssh()))
def test_D01_ssh_signatures_that_cannot_be_read_are_refused(signature):
    refused(with_header(COMMIT, signature), keys_of(SSH))


@pytest.mark.parametrize("position", range(0, 100, 7))
def test_D01_a_flipped_bit_in_a_signature_is_an_error_and_nothing_worse(position):
    for signer in (PGP, SSH):
        lines = signer.sign(COMMIT).strip().split(b"\n")
        start = lines.index(b"") + 1 if b"" in lines else 1
        raw = bytearray(base64.b64decode(b"".join(line for line in lines[start:-1] if not line.startswith(b"="))))
        raw[position % len(raw)] ^= 1 << position % 8
        text = b"\n".join([*lines[:start], base64.b64encode(raw), lines[-1]])
        try:
            verify_commit(with_header(COMMIT, text), keys_of(signer))
        except SignatureError:
            continue
        # Some bytes are not part of what is signed, such as the hint at the issuer. The key is always right.
        assert verify_commit(with_header(COMMIT, text), keys_of(signer)) == signer.shown


def test_D01_nothing_in_a_broken_signature_or_key_is_a_surprise():
    """Libraries raise errors of their own for odd packets, even from what they have read."""
    chance = random.Random(7)
    signature, key = PGP.sign(COMMIT), PGP.public
    for number in range(600):
        text = bytearray(binary(key if number % 2 else signature))
        for _ in range(chance.choice((1, 1, 2, 5))):
            text[chance.randrange(len(text))] = chance.randrange(256)
        with suppress(SignatureError, KeysError):
            if number % 2:
                verify_commit(
                    with_header(COMMIT, signature), TrustedKeys.read({"a": armored(text, "PUBLIC KEY BLOCK")})
                )
            else:
                verify_commit(with_header(COMMIT, armored(text, "SIGNATURE")), keys_of(PGP))


def binary(armor):
    lines = armor.strip().split(b"\n")
    start = lines.index(b"") + 1 if b"" in lines else 1
    return base64.b64decode(b"".join(line for line in lines[start:-1] if not line.startswith(b"=")))


def armored(raw, kind):
    return f"-----BEGIN PGP {kind}-----\n\n{base64.b64encode(raw).decode()}\n-----END PGP {kind}-----\n".encode()


# -- keys --------------------------------------------------------------------------------------------------------------


def test_s5_6_entries_are_taken_by_their_names():
    keys = TrustedKeys.read({"a.asc": PGP.public, "other": PGP.public, "b.sshpub": SSH.public, "c.pub": SSH.public})
    assert (len(keys.pgp), len(keys.ssh), keys.unreadable) == (2, 1, ("c.pub",))
    assert TrustedKeys.read({"a": PGP.public, "b.sshpub": PGP.public}).unreadable == ("b.sshpub",)


def test_s5_6_entries_may_hold_several_keys_and_other_lines():
    second, third = PgpSigner(), SshSigner(algorithm="ecdsa-sha2-nistp256")
    ring = b"Public keys of the team\n\n" + PGP.public + b"\n\n" + second.public + b"\nend"
    line = b'restrict,command="say \\"x y\\" z" ' + SSH.public
    text = b"# team\r\n\r\n" + line + b"ssh-ed25519 AAAA broken\n" + b"  namespaces=git\t" + third.public
    keys = TrustedKeys.read({"a": ring, "b.sshpub": text})
    assert len(keys.pgp) == 2
    for signer in (PGP, second, SSH, third):
        assert verify_commit(signed_commit(COMMIT, signer), keys) == signer.shown


def test_D05_secrets_that_hold_no_key_are_refused():
    for data, text in (
        ({}, "it is empty"),
        ({"a.asc": b""}, "no public key in 'a.asc'"),
        ({"a.asc": b"not armored", "b.sshpub": b"ssh-ed25519 AAAA x\n"}, "no public key in 'a.asc', 'b.sshpub'"),
        (dict.fromkeys("abcde", b"\x99\x01"), "no public key in 'a', 'b', 'c' and 2 more"),
        (
            {"a": b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----"},
            "no public key in 'a'",
        ),
        ({"a": b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n" * 1000}, "no public key in 'a'"),
    ):
        with pytest.raises(KeysError) as caught:
            TrustedKeys.read(data)
        assert str(caught.value) == text


def secret_in_public_armor():
    block = pysequoia.Tsk.generate("x")
    return pysequoia.armor(bytes(block), pysequoia.ArmorKind.PublicKey)


def test_D05_private_keys_are_refused_and_nothing_of_them_is_shown():
    hidden = secret_in_public_armor()
    hidden = hidden if isinstance(hidden, bytes) else hidden.encode()
    rsa = SshSigner(algorithm="ssh-rsa", key_size=2048).key
    for name, value in (
        ("a.asc", PGP.private),
        ("a.asc", PGP.public + PGP.private),
        ("a", hidden),
        ("a.sshpub", SSH.private),
        ("a.sshpub", SSH.public + rsa.export_private_key("pkcs8-pem")),
        ("a.sshpub", rsa.export_private_key("pkcs1-pem")),
    ):
        with pytest.raises(KeysError) as caught:
            TrustedKeys.read({"good.asc": PGP.public, name: value})
        assert str(caught.value) == f"'{name}' holds a private key"


def test_D05_the_number_of_keys_is_bounded():
    line = SSH.public.strip() + b"\n"
    assert len(TrustedKeys.read({"a.sshpub": line * MOST_KEYS}).ssh) == MOST_KEYS
    for data in (
        {"a.sshpub": line * (MOST_KEYS + 1)},
        {"a.sshpub": line * 600, "b.sshpub": line * 401},
        {"a.sshpub": b"x\n" * 10_000},
        {"a.asc": PGP.public * (MOST_KEYS + 1)},
    ):
        with pytest.raises(KeysError, match=f"there are more than {MOST_KEYS} keys"):
            TrustedKeys.read(data)


def test_s5_6_an_entry_without_a_key_is_named_only_when_it_may_matter():
    keys = TrustedKeys.read({"a.asc": PGP.public, "readme": b"text"})
    assert verify_commit(signed_commit(COMMIT, PGP), keys) == PGP.shown
    assert refused(signed_commit(COMMIT, SSH), keys).endswith("which is not trusted; there is no key in 'readme'")


def test_D06_keys_are_those_that_were_given_and_no_others():
    verify_commit(signed_commit(COMMIT, PGP), keys_of(PGP, SSH))
    assert "not trusted" in refused(signed_commit(COMMIT, PGP), keys_of(PgpSigner("other"), SSH))
    assert "not trusted" in refused(signed_commit(COMMIT, SSH), keys_of(PGP, SshSigner("other")))


def test_s16_the_fingerprint_tells_whether_the_keys_are_the_same():
    first = {"a.asc": b"one", "b.asc": b"two"}
    assert fingerprint(first) == fingerprint(dict(reversed(first.items())))
    assert fingerprint(first).startswith("sha256:")
    assert len(fingerprint({})) == len("sha256:") + 64
    others = [{"a.asc": b"two", "b.asc": b"one"}, {"a.asc": b"one"}, {"a.asc": b"oneb.asctwo"}, {}, first | {"c": b""}]
    assert len({fingerprint(data) for data in (first, *others)}) == 6


def test_D05_keys_are_in_no_representation():
    keys = keys_of(PGP, SSH)
    assert repr(keys) == "TrustedKeys(unreadable=())"
