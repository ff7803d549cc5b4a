"""Sealing: bound to its place, opened by the right key alone, and wrong keys noticed before they do harm."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calendar_server.vault import Vault, VaultError, VaultKeyError, _make_key, check_keys, key_beside

ROOT = Path(__file__).parents[2]
KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(100, 132))).decode()
# In both of its places the two alphabets of base64 differ.
MARKED = bytes([0xFB, 0xFF] * 16)
WHERE = {"table": "connections", "row": "cal_1", "column": "sealed_grant"}

vault = Vault.from_keys(f"k1:{KEY}")
texts = st.text(st.characters(codec="utf-8"), max_size=60)


class TestSealing:
    @given(texts, texts, texts, texts)
    def test_what_was_sealed_can_be_opened_in_its_place(self, text: str, table: str, row: str, column: str) -> None:
        sealed = vault.seal(text, table=table, row=row, column=column)
        assert vault.open(sealed, table=table, row=row, column=column) == text

    def test_a_sealed_text_names_version_and_key(self) -> None:
        version, kid, nonce, ciphertext = vault.seal("secret", **WHERE).split("|")
        assert (version, kid) == ("v1", "k1")
        assert len(base64.urlsafe_b64decode(nonce + "==")) == 12
        assert len(base64.urlsafe_b64decode(ciphertext + "==")) == len("secret") + 16

    def test_the_same_text_is_never_sealed_the_same_way_twice(self) -> None:
        assert len({vault.seal("secret", **WHERE) for _ in range(100)}) == 100

    def test_a_sealed_text_does_not_hold_the_text(self) -> None:
        assert base64.urlsafe_b64encode(b"secret").decode().rstrip("=") not in vault.seal("secret", **WHERE)

    @given(st.data())
    def test_another_place_does_not_open_it(self, data: st.DataObject) -> None:
        place = data.draw(st.tuples(texts, texts, texts))
        elsewhere = data.draw(st.tuples(texts, texts, texts).filter(lambda other: other != place))
        sealed = vault.seal("secret", table=place[0], row=place[1], column=place[2])
        with pytest.raises(VaultError):
            vault.open(sealed, table=elsewhere[0], row=elsewhere[1], column=elsewhere[2])

    def test_parts_of_a_place_cannot_be_shifted(self) -> None:
        for between in ("", "|", ",", '","', "\0"):
            sealed = vault.seal("secret", table="a", row=f"b{between}c", column="d")
            for table, row, column in ((f"a{between}b", "c", "d"), ("a", "b", f"c{between}d")):
                with pytest.raises(VaultError):
                    vault.open(sealed, table=table, row=row, column=column)

    def test_any_changed_character_is_noticed(self) -> None:
        sealed = vault.seal("secret", **WHERE)
        for position, was in enumerate(sealed):
            for character in "AB|-_.1":
                if character != was:
                    with pytest.raises(VaultError):
                        vault.open(sealed[:position] + character + sealed[position + 1 :], **WHERE)

    def test_every_cut_is_noticed(self) -> None:
        sealed = vault.seal("secret", **WHERE)
        for length in range(len(sealed)):
            with pytest.raises(VaultError):
                vault.open(sealed[:length], **WHERE)

    @given(texts)
    def test_anything_else_is_not_opened(self, text: str) -> None:
        with pytest.raises(VaultError):
            vault.open(text, **WHERE)

    @pytest.mark.parametrize("tail", ["\n", "=", "==", " ", "|", "|x"])
    def test_another_spelling_of_a_sealed_text_is_not_opened(self, tail: str) -> None:
        with pytest.raises(VaultError):
            vault.open(vault.seal("secret", **WHERE) + tail, **WHERE)

    def test_another_key_of_the_same_id_does_not_open_it(self) -> None:
        with pytest.raises(VaultError):
            Vault.from_keys(f"k1:{OTHER}").open(vault.seal("secret", **WHERE), **WHERE)

    def test_the_key_id_is_bound_as_well(self) -> None:
        both = Vault({"k1": bytes(32), "k2": bytes(32)})
        sealed = both.seal("secret", **WHERE)
        with pytest.raises(VaultError):
            both.open(sealed.replace("|k1|", "|k2|"), **WHERE)

    def test_every_failure_says_the_same(self) -> None:
        told = set()
        sealed = vault.seal("secret", **WHERE)
        for wrong in ("", sealed[:-1], sealed.replace("|k1|", "|k9|"), "v2" + sealed[2:]):
            with pytest.raises(VaultError) as raised:
                vault.open(wrong, **WHERE)
            told.add(str(raised.value))
            assert raised.value.__cause__ is None
        assert len(told) == 1


class TestRing:
    def test_the_first_key_writes_and_all_open(self) -> None:
        old = vault.seal("secret", **WHERE)
        ring = Vault.from_keys(f"k2:{OTHER}, k1:{KEY}")
        assert ring.writing_kid == "k2"
        assert ring.kids == ("k2", "k1")
        assert ring.open(old, **WHERE) == "secret"
        assert Vault.kid_of(ring.seal("secret", **WHERE)) == "k2"

    def test_what_no_vault_sealed_has_no_key_id(self) -> None:
        assert Vault.kid_of("v1|k1|short|x") == ""

    def test_a_vault_does_not_show_its_keys(self) -> None:
        assert KEY[:6] not in repr(vault)

    @pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
    @pytest.mark.parametrize("padded", [True, False])
    def test_keys_may_be_written_in_either_alphabet_padded_or_not(
        self, encode: Callable[[bytes], bytes], padded: bool
    ) -> None:
        written = encode(MARKED).decode()
        ring = Vault.from_keys(f"k1:{written if padded else written.rstrip('=')}")
        assert ring.open(Vault({"k1": MARKED}).seal("secret", **WHERE), **WHERE) == "secret"

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "entry 1 must be `kid:base64"),
            (KEY, "entry 1 must be `kid:base64"),
            (f"k1:{KEY},", "entry 2 must be `kid:base64"),
            (f":{KEY}", "entry 1 must begin with a key id"),
            (f"{KEY}:k1", "entry 1 must begin with a key id"),
            (f"k|1:{KEY}", "entry 1 must begin with a key id"),
            (f"{'k' * 65}:{KEY}", "entry 1 must begin with a key id"),
            ("k1:", "has 0 bytes"),
            ("k1:????", "not base64"),
            ("k1:A", "not base64"),
            (f"k1:{base64.b64encode(bytes(31)).decode()}", "has 31 bytes"),
            (f"k1:{base64.b64encode(bytes(33)).decode()}", "has 33 bytes"),
            (f"k1:{KEY},k1:{OTHER}", "k1 is there twice"),
            (f"k1:{KEY},k2:{KEY}", "the same key"),
            (",".join(f"k{n}:{base64.b64encode(n.to_bytes(32, 'big')).decode()}" for n in range(101)), "at most 100"),
        ],
    )
    def test_a_wrong_setting_says_what_is_wrong_without_the_key(self, text: str, told: str) -> None:
        with pytest.raises(ValueError, match=told) as raised:
            Vault.from_keys(text)
        assert KEY[:8] not in str(raised.value)
        assert raised.value.__cause__ is None


class CheckTexts:
    """Check texts in memory. ``put`` keeps the first, as the store does."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    @property
    def vault_keys(self) -> CheckTexts:
        return self

    def get(self, kid: str) -> str | None:
        return self.texts.get(kid)

    def put(self, kid: str, check_sealed: str) -> None:
        self.texts.setdefault(kid, check_sealed)

    def all(self) -> dict[str, str]:
        return dict(self.texts)


class LateCheckTexts(CheckTexts):
    """Another process puts its check text just before ours."""

    def __init__(self, theirs: Vault):
        super().__init__()
        self._theirs = theirs

    def put(self, kid: str, check_sealed: str) -> None:
        super().put(kid, self._theirs.seal_check(kid))
        super().put(kid, check_sealed)


class TestCheckingKeys:
    def test_the_first_start_leaves_a_check_text_for_each_key(self) -> None:
        store = CheckTexts()
        check_keys(Vault.from_keys(f"k2:{OTHER},k1:{KEY}"), store)
        assert set(store.texts) == {"k1", "k2"}

    def test_the_same_keys_pass_and_change_nothing(self) -> None:
        store = CheckTexts()
        check_keys(vault, store)
        before = dict(store.texts)
        check_keys(Vault.from_keys(f"k1:{KEY}"), store)
        assert store.texts == before

    def test_another_key_of_the_same_id_is_noticed_and_nothing_is_overwritten(self) -> None:
        store = CheckTexts()
        check_keys(vault, store)
        before = dict(store.texts)
        with pytest.raises(VaultKeyError, match="k1 is not the one"):
            check_keys(Vault.from_keys(f"k1:{OTHER},k2:{KEY}"), store)
        assert store.texts == before

    def test_a_ring_without_any_key_that_wrote_here_is_noticed(self) -> None:
        store = CheckTexts()
        check_keys(vault, store)
        before = dict(store.texts)
        with pytest.raises(VaultKeyError, match="it was k1"):
            check_keys(Vault.from_keys(f"k2:{OTHER}"), store)
        assert store.texts == before

    def test_a_new_key_beside_the_old_one_is_welcome(self) -> None:
        store = CheckTexts()
        check_keys(vault, store)
        check_keys(Vault.from_keys(f"k2:{OTHER},k1:{KEY}"), store)
        assert set(store.texts) == {"k1", "k2"}

    def test_an_old_key_may_leave_after_a_rotation(self) -> None:
        store = CheckTexts()
        check_keys(Vault.from_keys(f"k2:{OTHER},k1:{KEY}"), store)
        check_keys(Vault.from_keys(f"k2:{OTHER}"), store)

    def test_a_check_text_of_another_key_id_does_not_count(self) -> None:
        store = CheckTexts()
        ring = Vault.from_keys(f"k2:{OTHER},k1:{KEY}")
        store.texts = {"k1": ring.seal_check("k2")}
        with pytest.raises(VaultKeyError):
            check_keys(ring, store)

    def test_of_two_processes_with_different_keys_the_second_is_told(self) -> None:
        with pytest.raises(VaultKeyError, match="k1"):
            check_keys(vault, LateCheckTexts(Vault.from_keys(f"k1:{OTHER}")))

    def test_two_processes_with_the_same_key_both_pass(self) -> None:
        check_keys(vault, LateCheckTexts(Vault.from_keys(f"k1:{KEY}")))


class TestKeyBeside:
    def test_it_is_made_once(self, tmp_path: Path) -> None:
        first = key_beside(tmp_path / "calendar.db")
        assert key_beside(tmp_path / "calendar.db") == first
        assert Vault.from_keys(first).kids == ("k1",)

    def test_it_is_a_new_key_each_time(self, tmp_path: Path) -> None:
        assert key_beside(tmp_path / "a.db") != key_beside(tmp_path / "b.db")

    def test_it_stands_beside_the_database_for_its_owner_alone(self, tmp_path: Path) -> None:
        umask = os.umask(0)
        try:
            key_beside(tmp_path / "calendar.db")
        finally:
            os.umask(umask)
        (made,) = tmp_path.iterdir()
        assert made.name == "calendar.db.key"
        assert stat.S_IMODE(made.stat().st_mode) == 0o600

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
    def test_one_that_others_can_use_is_refused(self, tmp_path: Path, mode: int) -> None:
        key_beside(tmp_path / "calendar.db")
        (tmp_path / "calendar.db.key").chmod(mode)
        with pytest.raises(ValueError, match="chmod 600"):
            key_beside(tmp_path / "calendar.db")

    def test_one_that_another_process_made_meanwhile_stays(self, tmp_path: Path) -> None:
        theirs = key_beside(tmp_path / "calendar.db")
        _make_key(tmp_path / "calendar.db.key")
        assert key_beside(tmp_path / "calendar.db") == theirs

    def test_an_empty_one_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "calendar.db.key"
        path.touch(0o600)
        with pytest.raises(ValueError, match="is empty"):
            key_beside(tmp_path / "calendar.db")
        assert path.read_bytes() == b""

    def test_a_folder_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be made"):
            key_beside(tmp_path / "none" / "calendar.db")

    def test_something_else_of_that_name_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "calendar.db.key").mkdir(0o700)
        with pytest.raises(ValueError, match="cannot be read"):
            key_beside(tmp_path / "calendar.db")

    def test_processes_that_are_first_at_once_agree(self, tmp_path: Path) -> None:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", MAKE, str(tmp_path / "calendar.db")],
                env={"PYTHONPATH": str(ROOT / "server"), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        told = [process.communicate("go\n", timeout=60)[0] for process in processes]
        assert len(set(told)) == 1
        assert Vault.from_keys(told[0]).kids == ("k1",)
        assert [path.name for path in tmp_path.iterdir()] == ["calendar.db.key"]


MAKE = """
import sys
from pathlib import Path
from calendar_server.vault import key_beside
print("ready", flush=True)
sys.stdin.readline()
print(key_beside(Path(sys.argv[1])))
"""
