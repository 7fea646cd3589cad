from __future__ import annotations

from gitopsd.fetch.gitref import GitRef, Target
from gitopsd.fetch.gitrefs import Answer, Board, Boards

MAIN, STAGING, RANGE, TAG = GitRef("main"), GitRef("staging"), GitRef(semver=">=1"), GitRef(tag="v1")
OLD, NEW = "a" * 40, "b" * 40


def target(ref: GitRef, commit: str) -> Target:
    return Target(f"{ref.label}@sha1:{commit}", commit, commit)


class Case:
    """A board with a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.boards = Boards(lambda: self.now)
        self.board = self.boards.board("a")

    def look(self, *refs: GitRef, by: str | None = None, commit: str = OLD, others: bool = True) -> list[object]:
        departure = self.board.join(refs[0], 60, by)
        departure.refs.update(refs)
        since = self.board.leave(departure)
        prefixes = self.board.prefixes(departure.refs)
        found: dict[GitRef, Target | None] = {ref: target(ref, commit) for ref in refs}
        if others:
            found |= {ref: target(ref, commit) for ref in self.board.others(departure.refs, prefixes)}
        news = self.board.pin(departure, since, found)
        self.board.arrive(departure)
        return news

    def follow(self, name: str, ref: GitRef = MAIN, max_age: float = 60.0) -> bool:
        answer = self.board.answer(ref, 1e9)
        assert answer is not None
        self.boards.follow(self.board, name)
        return self.board.follow(name, ref, answer, max_age)


def test_s15_2_an_answer_serves_those_who_allow_its_age_and_nobody_else():
    case = Case()
    case.look(MAIN)
    case.now += 50
    assert case.board.answer(MAIN, 51).target == target(MAIN, OLD)
    assert case.board.answer(MAIN, 50) is None
    assert case.board.answer(MAIN, 0) is None
    assert case.board.answer(STAGING, 1e9) is None
    assert case.boards.board("b").answer(MAIN, 1e9) is None


def test_s15_2_news_wakes_every_follower_once_and_never_the_one_who_looked():
    case = Case()
    case.look(MAIN, STAGING)
    for name in "xyz":
        case.follow(name)
    case.follow("s", STAGING)
    assert case.look(MAIN) == []
    assert case.look(MAIN, by="x", commit=NEW, others=False) == ["y", "z"]
    assert case.look(MAIN, by="y", commit=NEW, others=False) == []
    assert case.look(STAGING, commit=NEW) == ["s"]


def test_s15_2_what_is_followed_is_looked_up_along():
    case = Case()
    case.look(MAIN, STAGING, TAG)
    for name, ref in (("m", MAIN), ("s", STAGING), ("t", TAG)):
        case.follow(name, ref)
    assert set(case.board.prefixes({MAIN})) == {"refs/heads/main", "refs/heads/staging", "refs/tags/v1"}
    assert case.board.prefixes({STAGING})[0] == "refs/heads/staging"
    assert set(case.look(MAIN, by="m", commit=NEW)) == {"s", "t"}


def test_all_tags_are_looked_up_along_only_when_their_followers_will_soon_want_them():
    case = Case()
    case.look(MAIN, RANGE)
    case.follow("m", MAIN, 60)
    case.follow("r", RANGE, 3600)
    case.now += 1799
    assert case.board.prefixes({MAIN}) == ("refs/heads/main",)
    case.now += 2
    assert case.board.prefixes({MAIN}) == ("refs/heads/main", "refs/tags/")


def test_one_listing_of_all_tags_answers_every_range_and_tag():
    case = Case()
    case.look(RANGE, TAG)
    assert set(case.board.others({RANGE}, ("refs/tags/",))) == {TAG}
    assert case.board.others({TAG}, ("refs/tags/v1",)) == []


def test_the_number_of_references_looked_up_along_is_bounded():
    case = Case()
    refs = [GitRef(f"b{number}") for number in range(400)]
    case.look(*refs)
    for number, ref in enumerate(refs):
        case.follow(str(number), ref)
    prefixes = case.board.prefixes({refs[0]})
    assert len(prefixes) == 256
    assert prefixes[0] == "refs/heads/b0"
    assert "refs/heads/b399" in prefixes


def test_a_reference_that_went_away_is_news_and_no_answer():
    case = Case()
    case.look(MAIN)
    case.follow("x")
    departure = case.board.join(STAGING, 60)
    assert case.board.pin(departure, case.board.leave(departure), {MAIN: None}) == ["x"]
    assert case.board.answer(MAIN, 1e9) is None
    case.board.arrive(departure)
    assert case.look(MAIN) == ["x"]


def test_a_look_that_left_earlier_never_overwrites_a_later_one():
    case = Case()
    case.look(MAIN, commit=OLD)
    case.follow("x")
    early = case.board.join(MAIN, 60)
    since = case.board.leave(early)
    case.now += 1
    assert case.look(MAIN, commit=NEW) == ["x"]
    assert case.board.pin(early, since, {MAIN: target(MAIN, OLD)}) == []
    assert case.board.answer(MAIN, 10).target == target(MAIN, NEW)


def test_who_is_told_something_that_is_old_by_now_hears_of_it():
    case = Case()
    case.look(MAIN, commit=OLD)
    old = case.board.answer(MAIN, 10)
    case.now += 1
    case.look(MAIN, commit=NEW)
    case.boards.follow(case.board, "x")
    assert case.board.follow("x", MAIN, old, 60)
    assert not case.follow("x")


def test_who_must_see_what_is_new_joins_no_look_that_has_left():
    board = Case().board
    first = board.join(MAIN, 60)
    assert board.join(STAGING, 60) is first
    assert board.join(MAIN, 30) is not first
    board.leave(first)
    second = board.join(MAIN, 60)
    assert second is not first
    assert board.join(MAIN, 60) is second
    board.leave(second)
    assert board.join(MAIN, 60, strict=False) in (first, second)
    assert board.join(RANGE, 60, strict=False) not in (first, second)


def test_a_follower_is_on_one_board_and_the_last_one_closes_it():
    case = Case()
    case.look(MAIN)
    case.follow("x")
    case.follow("y")
    case.now += 7
    assert case.boards.age("x") == 7
    assert case.boards.age("nobody") == 0
    assert case.boards.forget("x") is None
    assert case.boards.forget("x") is None
    assert case.boards.follow(case.boards.board("b"), "y") is case.board
    assert case.boards.board("a") is not case.board


def test_what_is_remembered_is_bounded():
    boards = Boards(lambda: 0.0)
    for number in range(5000):
        boards.board(number)
    assert len(boards._boards) == 4096
    board = Board("a", lambda: 0.0)
    for number in range(600):
        departure = board.join(GitRef(f"b{number}"), 60)
        ref = GitRef(f"b{number}")
        board.pin(departure, board.leave(departure), {ref: target(ref, OLD)})
        board.arrive(departure)
    assert len(board._answers) == 512
    assert board._departures == []
    assert isinstance(board.answer(GitRef("b599"), 1), Answer)
