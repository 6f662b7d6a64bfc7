from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.registration.lives import Life, Lives, Seniority, holder, read_lives

KEY = "0123456789abcdef"
TABLE = """\
Num       RefCount Protocol Flags    Type St Inode Path
00000000814c2815: 00000003 00000000 00000000 0001 03 20840476
00000000db0acaf6: 00000002 00000000 00010000 0001 01 20831169 /run/some.sock
"""


def row(name: str, *, flags: str = "00010000") -> str:
    return f"0000000055948a6a: 00000002 00000000 {flags} 0001 01 20831145 @{name}\n"


def life(instance: str = "aa", *, since: int = 5, born: int = 5, pid: int = 7) -> Life:
    return Life(key=KEY, instance=instance, since=since, born=born, pid=pid)


def found(*rows: str) -> list[Life]:
    return list(read_lives(TABLE + "".join(rows), KEY))


one_life = st.builds(life, st.sampled_from(["aa", "bb"]), since=st.integers(0), born=st.integers(0), pid=st.integers(0))
some = st.lists(one_life, min_size=1, unique_by=lambda one: (one.instance, one.born, one.pid))


@given(some)
def test_what_a_life_writes_is_read_again(alive: list[Life]) -> None:
    assert found(*(row(one.name) for one in alive)) == alive


def test_a_connection_to_a_life_is_none() -> None:
    assert found(row(life().name), row(life().name, flags="00000000")) == [life()]


@pytest.mark.parametrize(
    "name",
    [
        f"proxygen/registration/{KEY}",
        f"proxygen/registration/{KEY}/aa/5/5",
        f"proxygen/registration/{KEY}/aa/5/5/7/9",
        f"proxygen/registration/{KEY}/aa/5/5/-7",
        f"proxygen/registration/{KEY}/aa/5/5/",
        f"proxygen/registration/{KEY}/aa/5/five/7",
        f"proxygen/registration/{KEY}/aa/5/٥/7",
        f"proxygen/registration/{KEY}/aa/5/5/7 more",
        f"proxygen/registration/{KEY}0/aa/5/5/7",
        f"other/proxygen/registration/{KEY}/aa/5/5/7",
        "",
    ],
)
def test_what_only_looks_like_a_life_is_none(name: str) -> None:
    assert found(row(name)) == []


@pytest.mark.parametrize("flags", ["zz", "0x", "-", "00000000"])
def test_a_row_that_no_kernel_writes_is_none(flags: str) -> None:
    assert found(row(life().name, flags=flags)) == []


@given(st.text())
def test_any_table_can_be_read(table: str) -> None:
    assert list(read_lives(table, KEY)) == []


def test_no_table_has_no_lives() -> None:
    assert list(read_lives("", KEY)) == []


def test_a_name_that_makes_up_rows_of_the_table_costs_no_registration() -> None:
    """Any user of the host may give a socket any name, with line breaks in it."""
    mine: dict[str, Any] = {"agent": "agent:8500", "id": "web-1", "name": "web", "port": 80}
    key = Lives(**mine)._me.key
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0x\n0: 1 0 zz 1 1 1 @proxygen/registration/{key}/aa/1/1/1\n0: 1 0 00010000 1 1 1 @{'y' * 9}")
        assert Lives(**mine).standing() is Seniority.HOLDS


# --- who holds --------------------------------------------------------------------------------------------------------


def test_one_life_holds() -> None:
    assert holder([life()]) == life()


def test_the_newest_life_of_an_instance_holds() -> None:
    assert holder([life(born=6), life(born=7), life(born=5)]).born == 7


def test_the_instance_that_was_first_holds_however_new_its_life_is() -> None:
    upgraded = life("aa", since=5, born=900)
    assert holder([life("bb", since=6, born=6), upgraded]) == upgraded


def test_of_two_lives_of_one_moment_the_higher_process_id_holds() -> None:
    assert holder([life(pid=8), life(pid=9)]).pid == holder([life(pid=9), life(pid=8)]).pid == 9


def test_of_two_instances_of_one_moment_one_holds_whoever_asks() -> None:
    one, two = life("aa", pid=1), life("bb", pid=2)
    assert holder([one, two]) == holder([two, one]) == one


@given(some, st.randoms())
def test_all_lives_agree_on_who_holds(alive: list[Life], chance: Any) -> None:
    """In whichever order the kernel tells them."""
    told = list(alive)
    chance.shuffle(told)
    assert holder(told) == holder(alive)
    assert holder(alive) in alive


@given(some, st.data())
def test_the_end_of_another_instance_changes_nothing(alive: list[Life], data: st.DataObject) -> None:
    first = holder(alive)
    others = [one for one in alive if one.instance != first.instance]
    if others:
        alive.remove(data.draw(st.sampled_from(others)))
    assert holder(alive) == first
