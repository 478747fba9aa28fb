"""Checkpoints are named by their content; a training state survives whatever ends its writer."""

import errno
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse import checkpoints as module
from warehouse.checkpoints import CheckpointRef, Checkpoints, read_checkpoint
from warehouse.errors import StorageError

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {"problem": "next_word", "hidden_size": 4, "dropout": 0.1, "user_words": ["输入法"]}
VOCABULARIES = {"vocabulary": '["天气","今天"]', "target_vocabulary": '["weather"]'}
HISTORY = [{"epoch": 1, "timestamp_ms": 1, "metrics": {"train/loss": 5.5}}]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "rnn.weight": torch.randn(8, 4, generator=generator),
        "rnn.half": torch.randn(3, generator=generator).to(torch.bfloat16),
        "step": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(3, 2, generator=generator).T,
    }


@pytest.fixture
def store(warehouse: Path) -> Checkpoints:
    return Checkpoints(warehouse)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_checkpoint_comes_back_as_it_was(store: Checkpoints) -> None:
    ref = store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
    loaded = store.load(ref)
    assert loaded.config == CONFIG
    assert loaded.vocabularies == VOCABULARIES
    assert loaded.history == HISTORY
    assert loaded.weights.keys() == weights().keys()
    for name, tensor in weights().items():
        assert loaded.weights[name].dtype == tensor.dtype
        assert torch.equal(loaded.weights[name], tensor)
    assert names(store.directory(ref)) == [
        "config.json",
        "history.json",
        "target_vocabulary.json",
        "vocabulary.json",
        "weights.safetensors",
    ]
    assert names(store.root / "checkpoints") == [ref.digest]


def test_the_digest_is_of_the_content_alone(store: Checkpoints, tmp_path: Path) -> None:
    ref = store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
    shuffled = dict(reversed(CONFIG.items())), dict(reversed(weights().items()))
    elsewhere = Checkpoints(tmp_path / "elsewhere")
    again = elsewhere.save(*shuffled, VOCABULARIES, [{"epoch": 9, "timestamp_ms": 2}])
    assert again.digest == ref.digest == again.cache_digest()
    others = {
        store.save({**CONFIG, "dropout": 0.2}, weights(), VOCABULARIES, HISTORY).digest,
        store.save(CONFIG, weights(1), VOCABULARIES, HISTORY).digest,
        store.save(CONFIG, weights(), {"vocabulary": "[]"}, HISTORY).digest,
        store.save(CONFIG, {**weights(), "empty": torch.zeros(4, 0)}, VOCABULARIES, HISTORY).digest,
    }
    assert len(others | {ref.digest}) == 5


def test_the_same_content_is_kept_once(store: Checkpoints) -> None:
    first = store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
    inode = (store.directory(first) / "weights.safetensors").stat().st_ino
    second = store.save(CONFIG, weights(), VOCABULARIES, [])
    assert second == first
    assert (store.directory(first) / "weights.safetensors").stat().st_ino == inode
    assert store.load(second).history == HISTORY


def test_tied_weights_are_kept_under_both_names(store: Checkpoints) -> None:
    embedding = torch.randn(5, 3)
    tied = {"embedding": embedding, "output": embedding, "row": embedding[1]}
    loaded = store.load(store.save({}, tied, {}, [])).weights
    assert torch.equal(loaded["embedding"], embedding)
    assert torch.equal(loaded["output"], embedding)
    assert torch.equal(loaded["row"], embedding[1])


def test_a_ref_knows_whether_its_files_are_whole(store: Checkpoints) -> None:
    ref = store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
    assert ref.intact(store.root)
    assert CheckpointRef.model_validate_json(ref.model_dump_json()) == ref
    file = store.directory(ref) / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert not ref.intact(store.root)
    file.unlink()
    assert not ref.intact(store.root)
    assert not ref.intact(store.root / "elsewhere")


def test_a_damaged_checkpoint_is_refused_and_replaced_by_the_next_save(store: Checkpoints) -> None:
    ref = store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
    file = store.directory(ref) / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError, match="other content than its name says"):
        store.load(ref)
    file.write_bytes(content[:20])
    with pytest.raises(StorageError, match="cannot be read"):
        store.load(ref)
    assert store.save(CONFIG, weights(), VOCABULARIES, HISTORY) == ref
    assert store.load(ref).config == CONFIG


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere cannot be read"):
        read_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config", "history", "weights", "../up", "A", ""])
def test_a_vocabulary_cannot_take_another_files_name(store: Checkpoints, name: str) -> None:
    with pytest.raises(StorageError, match="a vocabulary cannot be kept"):
        store.save({}, weights(), {name: "[]"}, [])


SCALARS: dict[str, Any] = {
    "epoch": 3,
    "position": 2**70,
    "best": 0.1 + 0.2,
    "worst": float("inf"),
    "lowest": float("-inf"),
    "early_stop": None,
    "finished": False,
    "note": '输入法 " \\ \n \u2028',
    "numbers": [1, 1.0, True, None, [], {}],
    "nested": {"0": {"lr": 1e-300}},
}


def test_a_state_comes_back_exactly(store: Checkpoints) -> None:
    assert store.load_state("gru/7") is None
    store.save_state("gru/7", weights(), SCALARS)
    state = store.load_state("gru/7")
    assert state is not None
    tensors, scalars = state
    assert scalars == SCALARS
    assert [type(one) for one in scalars["numbers"]] == [int, float, bool, type(None), list, dict]
    for name, tensor in weights().items():
        assert torch.equal(tensors[name], tensor)
    assert store.load_state("gru/8") is None
    store.drop_state("gru/7")
    store.drop_state("gru/7")
    assert store.load_state("gru/7") is None


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scalars=st.dictionaries(st.text(), PLAIN, max_size=4))
def test_any_plain_values_survive(store: Checkpoints, scalars: dict[str, Any]) -> None:
    store.save_state("any", {}, scalars)
    state = store.load_state("any")
    assert state is not None
    assert repr(state[1]) == repr(scalars)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {1: 2}}, r"scalars\['a'\] has the key 1; make every key a string"),
        ({"a": [torch.tensor(1)]}, r"scalars\['a'\]\[0\] is a Tensor"),
        ({"a": torch.tensor(1.0).numpy()}, r"scalars\['a'\] is a ndarray"),
        ({"a": {1, 2}}, r"scalars\['a'\] is a set"),
    ],
)
def test_what_json_would_change_is_refused(
    store: Checkpoints, value: dict[str, Any], message: str
) -> None:
    store.save_state("k", {}, {"epoch": 1})
    with pytest.raises(StorageError, match=message):
        store.save_state("k", {}, value)
    assert store.load_state("k") == ({}, {"epoch": 1})


def test_two_generations_are_kept(store: Checkpoints) -> None:
    for epoch in range(5):
        store.save_state("k", weights(epoch), {"epoch": epoch})
    (folder,) = (store.root / "states").iterdir()
    assert names(folder) == ["00000004", "00000005"]
    state = store.load_state("k")
    assert state is not None
    assert state[1] == {"epoch": 4}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tensors.safetensors", "scalars.json", "sums.json"])
@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_state_counts_as_absent(
    store: Checkpoints, name: str, damage: Callable[[Path], None]
) -> None:
    store.save_state("k", weights(1), {"epoch": 1})
    store.save_state("k", weights(2), {"epoch": 2})
    (folder,) = (store.root / "states").iterdir()
    damage(folder / "00000002" / name)
    state = store.load_state("k")
    assert state is not None
    assert state[1] == {"epoch": 1}
    damage(folder / "00000001" / name)
    assert store.load_state("k") is None
    store.save_state("k", weights(3), {"epoch": 3})
    state = store.load_state("k")
    assert state is not None
    assert state[1] == {"epoch": 3}


@pytest.mark.parametrize("failing", ["save_file", "_write_text", "sync_path", "_publish"])
def test_a_full_disk_is_a_sentence_and_the_last_state_stays(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    store.save_state("k", weights(1), {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, failing, full)
        with pytest.raises(StorageError, match=r"No space left on device; free some space"):
            store.save_state("k", weights(2), {"epoch": 2})
        with pytest.raises(StorageError, match=r"No space left on device; free some space"):
            store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
    state = store.load_state("k")
    assert state is not None
    assert state[1] == {"epoch": 1}
    (folder,) = (store.root / "states").iterdir()
    assert names(folder) == ["00000001"]
    assert names(store.root / "checkpoints") == []


def test_a_really_full_disk_leaves_the_last_state(store: Checkpoints) -> None:
    """The writer may use 64 KiB a file, as `ulimit -f` has it; the tensors need more."""
    store.save_state("k", weights(1), {"epoch": 1})
    script = f"""
        import resource, signal, torch
        from warehouse.checkpoints import Checkpoints
        from warehouse.errors import StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            Checkpoints({str(store.root)!r}).save_state("k", {{"w": torch.zeros(100_000)}}, {{}})
        except StorageError as error:
            print(error)
    """
    done = _python(script)
    assert done.returncode == 0, done.stderr
    assert "training state 'k' could not be written" in done.stdout
    state = store.load_state("k")
    assert state is not None
    assert state[1] == {"epoch": 1}


def test_a_killed_writer_leaves_a_whole_state(store: Checkpoints) -> None:
    """SIGKILL in the middle of a loop of saves; whatever is read afterwards belongs together."""
    script = f"""
        import torch
        from warehouse.checkpoints import Checkpoints
        store = Checkpoints({str(store.root)!r})
        for epoch in range(1_000_000):
            store.save_state("k", {{"w": torch.full((200_000,), float(epoch))}}, {{"epoch": epoch}})
            if epoch == 3:
                print("going", flush=True)
    """
    for pause in (0.0, 0.004, 0.011):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=max(pause, 0.0005))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        state = store.load_state("k")
        assert state is not None
        tensors, scalars = state
        assert torch.equal(tensors["w"], torch.full((200_000,), float(scalars["epoch"])))
    (folder,) = (store.root / "states").iterdir()
    store.save_state("k", {}, {"epoch": -1})
    assert not list(folder.glob(".aside-*"))
    state = store.load_state("k")
    assert state is not None
    assert state[1] == {"epoch": -1}


def test_what_a_dead_writer_left_aside_is_swept_and_a_living_one_is_not(
    store: Checkpoints,
) -> None:
    parent = store.root / "checkpoints"
    (parent / ".aside-dead").mkdir(parents=True)
    with module._locked_directory(parent) as living:
        store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
        assert living.is_dir()
        assert not (parent / ".aside-dead").exists()


def test_files_are_readable_json_in_utf_8(store: Checkpoints) -> None:
    ref = store.save(CONFIG, weights(), VOCABULARIES, HISTORY)
    text = (store.directory(ref) / "config.json").read_bytes().decode()
    assert "输入法" in text
    assert json.loads(text) == CONFIG


def _python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
