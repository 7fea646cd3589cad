"""Keys that sign commits and tags the way `git commit -S` and `git tag -s` do, made when a test needs them."""

from __future__ import annotations

from typing import Protocol

import asyncssh
import pysequoia

from tests.servers.git import Repository


class Signer(Protocol):
    """A key pair: what goes into a Secret, how the key is called in messages, and its signatures."""

    entry: str
    public: bytes
    shown: str

    def sign(self, payload: bytes) -> bytes: ...


class PgpSigner:
    """An OpenPGP key; `validity` in seconds lets it expire."""

    def __init__(self, name: str = "signer", *, validity: int | None = None) -> None:
        self._key = pysequoia.Tsk.generate(f"{name} <{name}@example.com>", validity_seconds=validity)
        cert = self._key.extract_certificate()
        self.entry = f"{name}.asc"
        self.public = str(cert).encode()
        self.private = str(self._key).encode()
        self.shown = cert.fingerprint.upper()[-16:]

    def sign(self, payload: bytes) -> bytes:
        """An armored detached signature."""
        made = pysequoia.sign(self._key.signer(), payload, mode=pysequoia.SignatureMode.DETACHED)
        return made if isinstance(made, bytes) else str(made).encode()


class SshSigner:
    """An SSH key."""

    def __init__(self, name: str = "signer", algorithm: str = "ssh-ed25519", **options: int) -> None:
        self.key = asyncssh.generate_private_key(algorithm, comment=name, **options)
        self.entry = f"{name}.sshpub"
        self.public = self.key.export_public_key()
        self.private = self.key.export_private_key()
        self.shown = self.key.get_fingerprint()

    def sign(self, payload: bytes, *, namespace: str = "git", hash_name: str = "sha512") -> bytes:
        """An armored signature in OpenSSH's form."""
        return asyncssh.create_sshsig(self.key, payload, namespace=namespace, hash_name=hash_name)


def with_header(raw: bytes, signature: bytes, header: bytes = b"gpgsig") -> bytes:
    """The commit with a signature as its last header."""
    head, _, message = raw.partition(b"\n\n")
    return head + b"\n" + header + b" " + signature.strip().replace(b"\n", b"\n ") + b"\n\n" + message


def signed_commit(raw: bytes, signer: Signer) -> bytes:
    """The commit, signed."""
    return with_header(raw, signer.sign(raw))


def signed_tag(raw: bytes, signer: Signer) -> bytes:
    """The tag, signed."""
    return raw + signer.sign(raw).strip() + b"\n"


def commit_object(message: str = "change", tree: str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904") -> bytes:
    """The raw object of a commit of the empty tree."""
    who = "A U Thor <author@example.com> 1767225600 +0000"
    return f"tree {tree}\nauthor {who}\ncommitter {who}\n\n{message}\n".encode()


def tag_object(target: str, name: str, message: str = "release") -> bytes:
    """The raw object of a tag of a commit."""
    who = "A U Thor <author@example.com> 1767225600 +0000"
    return f"object {target}\ntype commit\ntag {name}\ntagger {who}\n\n{message}\n".encode()


def sign_tip(repository: Repository, signer: Signer, branch: str = "main") -> str:
    """Replace the newest commit of a branch by the same one, signed; returns its hash."""
    tip = repository.ref(f"refs/heads/{branch}")
    raw = (repository.git("cat-file", "commit", str(tip)) + "\n").encode()
    sha = repository.put("commit", signed_commit(raw, signer))
    repository.commits[-1:] = [sha]
    repository.reset(branch, sha)
    return sha


def sign_tag(repository: Repository, name: str, signer: Signer, target: str | None = None) -> str:
    """Put a signed tag on a commit; returns the hash of the tag object."""
    sha = repository.put("tag", signed_tag(tag_object(target or repository.commits[-1], name), signer))
    repository.set_ref(f"refs/tags/{name}", sha)
    return sha
