"""Flags as scripts already write them: global ones anywhere on the line, Go's spellings, one line for a mistake.

Knows how a command line becomes values; knows no verb and no API server. A flag that a command hands down to what is
below it (`persistent`) may stand at any level, and the innermost one that was given wins. Nothing here reads the
cluster; the environment is read through `settings` only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from gitopsd.errors import GitopsdError
from gitopsd.settings import in_cli

DEFAULT_NAMESPACE = "flux-system"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_STORE = "gitopsd.flags"


class CommandError(GitopsdError):
    """A verb that failed: printed once as `✗ <message>`, exit status `code`."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def is_dns_label(text: str) -> bool:
    """Whether `text` can name a namespace."""
    return _DNS_LABEL.fullmatch(text) is not None


class DurationType(click.ParamType[float]):
    """A duration as Go writes it; the value is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text; a number is taken as seconds already read."""
        if isinstance(value, int | float):
            return float(value)
        from gitopsd.api.meta import parse_duration

        try:
            return parse_duration(value)
        except (GitopsdError, ValueError):
            flag = param.opts[-1] if param is not None else "?"
            self.fail(f'invalid argument "{value}" for "{flag}" flag: invalid duration "{value}"', param, ctx)


DURATION = DurationType()


def split_commas(_ctx: click.Context, _param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Callback of a list flag: it may be given several times, and each time hold several items."""
    return tuple(item for part in value for item in part.split(",") if item)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Keep a persistent flag's value for the verb: what was given beats a default of any level."""
    store = ctx.find_root().meta.setdefault(_STORE, {})
    assert param.name is not None
    given = ctx.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE
    if given or param.name not in store:
        store[param.name] = value
    return value


def persistent_option(*names: str, **settings: Any) -> click.Option:
    """An option that a group hands down to everything below it."""
    inner: Callable[[click.Context, click.Parameter, Any], Any] | None = settings.pop("callback", None)

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        return _remember(ctx, param, value if inner is None else inner(ctx, param, value))

    return click.Option(list(names), callback=callback, expose_value=False, **settings)


def stored() -> Mapping[str, Any]:
    """The values of all persistent flags of the running command."""
    found: Mapping[str, Any] = click.get_current_context().find_root().meta.get(_STORE, {})
    return found


GLOBAL_OPTIONS: tuple[click.Option, ...] = (
    persistent_option("-n", "--namespace", default=None, metavar="NS", help="namespace to work in (flux-system)"),
    persistent_option("--ns-follows-kube-context", is_flag=True, help="use the namespace of the kubeconfig context"),
    persistent_option("--timeout", type=DURATION, default=300.0, metavar="DURATION", help="end after this long (5m)"),
    persistent_option("--verbose", is_flag=True, help="print generated objects"),
    persistent_option("--kubeconfig", default="", metavar="FILE", help="kubeconfig file"),
    persistent_option("--context", default="", help="context of the kubeconfig"),
    persistent_option("--cluster", default="", help="cluster entry of the kubeconfig"),
    persistent_option("--user", default="", help="user entry of the kubeconfig"),
    persistent_option("--token", default="", help="bearer token (visible to others on this machine)"),
    persistent_option("--server", default="", metavar="URL", help="address of the API server"),
    persistent_option("--tls-server-name", default="", help="name to expect in the server's certificate"),
    persistent_option("--insecure-skip-tls-verify", is_flag=True, help="do not check the server's certificate"),
    persistent_option("--certificate-authority", default="", metavar="FILE", help="CA to check the server with"),
    persistent_option("--client-certificate", default="", metavar="FILE", help="client certificate"),
    persistent_option("--client-key", default="", metavar="FILE", help="key of the client certificate"),
    persistent_option("--as", "as_user", default="", metavar="USER", help="user to impersonate"),
    persistent_option(
        "--as-group", "as_groups", multiple=True, callback=split_commas, help="group to impersonate (repeatable)"
    ),
    persistent_option("--as-uid", default="", help="UID to impersonate"),
    persistent_option("--as-user-extra", multiple=True, metavar="KEY=VALUE", help="extra field to impersonate"),
    persistent_option("--cache-dir", default="", hidden=True),
    persistent_option("--disable-compression", is_flag=True, hidden=True),
    persistent_option("--kube-api-qps", type=float, default=50.0, help="requests a second (50)"),
    persistent_option("--kube-api-burst", type=int, default=300, help="burst above --kube-api-qps (300)"),
)


@dataclass(frozen=True)
class GlobalFlags:
    """What section 2.3 of `spec/cli.md` says every verb understands. `timeout` is seconds."""

    namespace: str | None
    ns_follows_kube_context: bool
    timeout: float
    verbose: bool
    kubeconfig: str
    context: str
    cluster: str
    user: str
    token: str
    server: str
    tls_server_name: str
    insecure_skip_tls_verify: bool
    certificate_authority: str
    client_certificate: str
    client_key: str
    as_user: str
    as_groups: tuple[str, ...]
    as_uid: str
    as_user_extra: tuple[str, ...]
    cache_dir: str
    disable_compression: bool
    kube_api_qps: float
    kube_api_burst: int

    @classmethod
    def current(cls) -> GlobalFlags:
        """Those of the running command. Raises `CommandError` for a namespace that cannot be one."""
        values = stored()
        flags = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        if flags.namespace is not None and not is_dns_label(flags.namespace):
            raise CommandError(f'namespace must be a valid DNS label: "{flags.namespace}"')
        return flags

    @property
    def follows_context(self) -> bool:
        """Whether the namespace is the kubeconfig context's."""
        follows = self.ns_follows_kube_context or bool(in_cli("FLUX_NS_FOLLOWS_KUBE_CONTEXT"))
        return self.namespace is None and follows

    def default_namespace(self, warn: Callable[[str], None]) -> str:
        """The namespace when neither `-n` nor the context decides."""
        named = in_cli("FLUX_SYSTEM_NAMESPACE")
        if named and not is_dns_label(named):
            warn(f'ignoring invalid FLUX_SYSTEM_NAMESPACE: "{named}"')
            return DEFAULT_NAMESPACE
        return named or DEFAULT_NAMESPACE


def _in_go_style(args: Sequence[str], options: Sequence[click.Parameter]) -> Iterator[str]:
    """Translate what Go's flag library accepts and ours does not: `--flag=true`, `--flag=false`, `-n=name`."""
    booleans = {name: option for option in options if getattr(option, "is_flag", False) for name in option.opts}
    short = {name for option in options for name in option.opts if len(name) == 2 and name not in booleans}
    rest = iter(args)
    for arg in rest:
        if arg == "--":
            yield arg
            yield from rest
            return
        name, equals, value = arg.partition("=")
        if equals and name in booleans and value.lower() in {"true", "1", "t"}:
            yield name
        elif equals and name in booleans and value.lower() in {"false", "0", "f"}:
            yield from booleans[name].secondary_opts[:1]
        elif equals and name in short:
            yield from (name, value)
        else:
            yield arg


def _handed_down(ctx: click.Context) -> list[click.Parameter]:
    found: list[click.Parameter] = []
    at: click.Context | None = ctx
    while at is not None:
        found.extend(getattr(at.command, "persistent", ()))
        at = at.parent
    return found


class Verb(click.Command):
    """A command at the end of the line: it takes its own flags and those handed down to it."""

    def __init__(self, *args: Any, persistent: Sequence[click.Option] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.persistent = tuple(persistent)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Own parameters, then the inherited ones."""
        return [*super().get_params(ctx), *_handed_down(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after Go's spellings were translated."""
        return super().parse_args(ctx, list(_in_go_style(args, self.get_params(ctx))))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Flags of this verb; the global ones are listed once, by `gitopsd --help`."""
        _format_options(self, ctx, formatter, super().get_params(ctx))


class Verbs(click.Group):
    """A command with commands below it, and flags that it hands down to them."""

    command_class = Verb

    def __init__(
        self,
        *args: Any,
        persistent: Sequence[click.Option] = (),
        aliases: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.persistent = tuple(persistent)
        self.aliases = dict(aliases or {})

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Own parameters, then the inherited ones."""
        return [*super().get_params(ctx), *_handed_down(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after Go's spellings were translated."""
        return super().parse_args(ctx, list(_in_go_style(args, self.get_params(ctx))))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name or one of its other names."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise CommandError(f'unknown command "{args[0]}" for "{ctx.command_path}"')
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands of this group, then its flags."""
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter, super().get_params(ctx))


def _format_options(
    command: Verb | Verbs, ctx: click.Context, formatter: click.HelpFormatter, own: Sequence[click.Parameter]
) -> None:
    inherited = [option for option in _handed_down(ctx) if option not in GLOBAL_OPTIONS or ctx.parent is None]
    shown = [record for param in (*own, *inherited) if (record := param.get_help_record(ctx)) is not None]
    if shown:
        with formatter.section("Flags"):
            formatter.write_dl(shown)
    if ctx.parent is not None:
        formatter.write_paragraph()
        formatter.write_text(f"Global flags are listed by: {ctx.find_root().command_path} --help")
