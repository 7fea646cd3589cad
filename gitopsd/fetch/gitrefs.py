"""What was seen of repositories' references, by whom it is followed, and which look at a server serves whom.

Theory of operation. There is one `Board` for each address and credentials. A look at the server is a `Departure`: it
stands open for a moment, in which whoever asks comes along, and then leaves with everything that anybody on the board
follows. Its answers are pinned to the board, each with the moment before which nothing was read. Who can do with an
answer of some age takes it from there; who cannot never joins a look that has left already, because what he wants to
see may have come after it. A pinned answer that differs from what a follower was told wakes that follower.

Knows references, ages and followers; refuses to know servers, and what a follower is. Pure, used in one event loop.
Invariant: an answer is never older than the caller allows, and never one for other credentials.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gitopsd.fetch.gitref import GitRef, Target

_MOST_BOARDS = 4096
_MOST_ANSWERS = 512
_MOST_PREFIXES = 256
_MOST_FOLLOWERS = 50_000
# A range needs all tags, which may be many: others' are looked up along when their answer has reached half its age.
_STALE = 0.5


class Answer(NamedTuple):
    """What a reference named at `since`."""

    target: Target
    since: float


@dataclass(eq=False)
class Departure:
    """One look at the server, for all who ask within one moment."""

    timeout: float
    refs: set[GitRef] = field(default_factory=set)
    # Those followers who will hear of it in any case.
    aboard: set[Hashable] = field(default_factory=set)
    is_open: bool = True


@dataclass
class _Following:
    """Who follows a reference, and the revision that each was told."""

    max_age: float = 0.0
    told: dict[Hashable, str] = field(default_factory=dict)


class Board:
    """One repository as seen with one set of credentials."""

    def __init__(self, key: Hashable, clock: Callable[[], float]) -> None:
        self.key = key
        self._clock = clock
        self._answers: OrderedDict[GitRef, Answer] = OrderedDict()
        self._departures: list[Departure] = []
        self._followed: OrderedDict[GitRef, _Following] = OrderedDict()
        self._followers: dict[Hashable, tuple[GitRef | None, float]] = {}

    @property
    def is_followed(self) -> bool:
        """Whether anybody follows anything here."""
        return bool(self._followers)

    def answer(self, ref: GitRef, max_age: float) -> Answer | None:
        """What is known of `ref` and not older than `max_age` seconds; nothing for 0."""
        found = self._answers.get(ref)
        return found if found is not None and self._clock() - found.since < max_age else None

    def target(self, ref: GitRef, revision: str) -> Target | None:
        """What to ask for to get `revision`, if that is what `ref` named when it was last looked at."""
        found = self._answers.get(ref)
        return found.target if found is not None and found.target.revision == revision else None

    def join(self, ref: GitRef, timeout: float, follower: Hashable = None, *, strict: bool = True) -> Departure:
        """The look that will answer for `ref`: one that is about to leave, or, unless `strict`, has left for it."""
        for departure in self._departures:
            if departure.timeout == timeout and (departure.is_open or (not strict and ref in departure.refs)):
                break
        else:
            departure = Departure(timeout)
            self._departures.append(departure)
        departure.refs.add(ref)
        departure.aboard.add(follower)
        return departure

    def leave(self, departure: Departure) -> float:
        """Nobody comes along any more; returns the moment, which every answer will carry."""
        departure.is_open = False
        if departure not in self._departures:  # whoever left with it first was cancelled
            self._departures.append(departure)
        return self._clock()

    def arrive(self, departure: Departure) -> None:
        """It is over, well or not."""
        if departure in self._departures:
            self._departures.remove(departure)

    def prefixes(self, refs: set[GitRef]) -> tuple[str, ...]:
        """What to list for `refs`, and along with them for everybody else; theirs come first."""
        found: dict[str, None] = dict.fromkeys(prefix for ref in refs for prefix in ref.prefixes)
        for ref, following in reversed(self._followed.items()):
            if len(found) >= _MOST_PREFIXES:
                break
            if not ref.is_range or self.answer(ref, _STALE * following.max_age) is None:
                found.update(dict.fromkeys(ref.prefixes))
        return tuple(found)

    def others(self, refs: set[GitRef], prefixes: tuple[str, ...]) -> list[GitRef]:
        """The references that a listing of `prefixes` answers, besides `refs`."""
        known = dict.fromkeys([*self._answers, *self._followed])
        return [ref for ref in known if ref not in refs and all(one.startswith(prefixes) for one in ref.prefixes)]

    def pin(self, departure: Departure, since: float, found: Mapping[GitRef, Target | None]) -> list[Hashable]:
        """Note what was seen at `since`, None for what is not there.

        Returns the followers to whom it is news, each once; those aboard learn it as an answer.
        """
        news: list[Hashable] = []
        for ref, target in found.items():
            known = self._answers.get(ref)
            if known is not None and known.since > since:
                continue
            if target is None:
                self._answers.pop(ref, None)
            else:
                self._answers[ref] = Answer(target, since)
                self._answers.move_to_end(ref)
            if known is None or known.target != target:
                news += self._news(ref, target.revision if target is not None else "")
        while len(self._answers) > _MOST_ANSWERS:
            self._answers.popitem(last=False)
        return [follower for follower in news if follower not in departure.aboard]

    def _news(self, ref: GitRef, revision: str) -> list[Hashable]:
        following = self._followed.get(ref)
        if following is None:
            return []
        news = [follower for follower, told in following.told.items() if told != revision]
        following.told.update(dict.fromkeys(news, revision))
        return news

    def follow(self, follower: Hashable, ref: GitRef, answer: Answer, max_age: float) -> bool:
        """Note what `follower` is told; returns whether something newer is known already."""
        self.leave_alone(follower)
        self._followers[follower] = ref, answer.since
        following = self._followed.setdefault(ref, _Following())
        following.max_age = max_age or following.max_age
        latest = self._answers.get(ref, answer)
        following.told[follower] = latest.target.revision
        self._followed.move_to_end(ref)
        return latest.target.revision != answer.target.revision

    def attend(self, follower: Hashable) -> None:
        """Note that `follower` follows what never moves."""
        self.leave_alone(follower)
        self._followers[follower] = None, 0.0

    def leave_alone(self, follower: Hashable) -> None:
        """Tell `follower` nothing any more."""
        ref, _ = self._followers.pop(follower, (None, 0.0))
        if ref is not None:
            del self._followed[ref].told[follower]
            if not self._followed[ref].told:
                del self._followed[ref]

    def age(self, follower: Hashable) -> float:
        """How many seconds ago what a follower was last told was seen; 0 for what never moves."""
        ref, since = self._followers.get(follower, (None, 0.0))
        return 0.0 if ref is None else self._clock() - since


class Boards:
    """All boards. One follower is on one board at a time."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._boards: OrderedDict[Hashable, Board] = OrderedDict()
        self._places: OrderedDict[Hashable, Board] = OrderedDict()

    def board(self, key: Hashable) -> Board:
        """The board for an address and credentials."""
        found = self._boards.get(key)
        if found is None:
            found = self._boards[key] = Board(key, self._clock)
            while len(self._boards) > _MOST_BOARDS:
                self._boards.popitem(last=False)
        self._boards.move_to_end(key)
        return found

    def age(self, follower: Hashable) -> float:
        """How many seconds ago what a follower was last told was seen; 0 for one who was told nothing."""
        board = self._places.get(follower)
        return 0.0 if board is None else board.age(follower)

    def follow(self, board: Board, follower: Hashable) -> Board | None:
        """Put `follower` on `board` alone; returns the one that nobody follows any more because of it."""
        left = self.forget(follower) if self._places.get(follower) is not board else None
        self._places[follower] = board
        self._places.move_to_end(follower)
        if len(self._places) > _MOST_FOLLOWERS:
            self.forget(next(iter(self._places)))
        return left

    def forget(self, follower: Hashable) -> Board | None:
        """Follow nothing any more; returns the board if nobody else is on it, which is forgotten, too."""
        board = self._places.pop(follower, None)
        if board is None:
            return None
        board.leave_alone(follower)
        if board.is_followed:
            return None
        if self._boards.get(board.key) is board:
            del self._boards[board.key]
        return board
