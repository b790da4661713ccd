"""A checkpoint comes whole from a folder, the Hugging Face hub or W&B, and nothing else is followed."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from hub_server import HubServer
from safetensors.torch import load_file
from wandb_server import WandbServer

import vit
from vit import checkpoint, sources
from vit.checks import UsageError
from vit.config import Config, ViTConfig, WandbConfig
from vit.model import VisionTransformer
from vit.tracking import Tracker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder."""
    config = Config(name="tiny", model=ViTConfig(dim=16, depth=2, heads=2, patch_size=8))
    checkpoint.save_checkpoint(tmp_path / "tiny", VisionTransformer(config.model), config, {"val/acc": 0.5})
    return tmp_path / "tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    # What HF_ENDPOINT, HF_HOME and HF_HUB_DISABLE_XET set, which are read only when the package is first imported.
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in (
        ("ENDPOINT", server.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", template),
        ("HF_HUB_CACHE", str(tmp_path / "hub")),
        ("HF_TOKEN_PATH", str(tmp_path / "token")),
        ("HF_HUB_DISABLE_XET", True),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield server
    server.close()


@pytest.fixture
def wandb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    server = WandbServer()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    yield server
    server.close()


def same(one: VisionTransformer, other: VisionTransformer) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


class TestLocalFolders:
    def test_a_link_to_a_folder_is_the_folder(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(folder)
        assert same(vit.load(tmp_path / "link"), vit.load(folder))
        (tmp_path / "run").mkdir()
        folder.rename(tmp_path / "run" / "last")
        (tmp_path / "run" / "best").symlink_to("last")
        assert vit.load(tmp_path / "run").labels

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_link_out_of_the_folder_is_not_followed(self, folder: Path, tmp_path: Path, name: str) -> None:
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(UsageError, match=rf"{name}: a link out of .*tiny, which is not followed"):
            vit.load(folder)

    def test_best_of_a_run_may_not_lie_elsewhere(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "best").symlink_to(folder)
        with pytest.raises(UsageError, match="a link out of"):
            vit.load(tmp_path / "run")

    @pytest.mark.parametrize(
        "source", ["https://example.org/model", "http://example.org", "s3://bucket/model", "file:///tmp/model"]
    )
    def test_urls_are_refused(self, source: str) -> None:
        for each in (source, Path(source)):
            with pytest.raises(UsageError, match="URLs are not followed"):
                vit.load(each)


class TestHub:
    def test_the_three_files_are_fetched_and_nothing_else(self, folder: Path, hub: HubServer) -> None:
        hub.repositories["tester/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.repositories["tester/tiny"]["pytorch_model.bin"] = b"cos\nsystem\n(S'false'\ntR."
        for load in (vit.load, VisionTransformer.from_pretrained):
            assert same(load("hf-hub:tester/tiny"), vit.load(folder))
        assert same(VisionTransformer.from_pretrained("tester/tiny"), vit.load(folder))
        fetched = {path.rpartition("/")[2] for path in hub.requested if "/resolve/" in path}
        assert fetched == set(sources.FILES)

    def test_without_network_the_cache_serves(self, folder: Path, hub: HubServer) -> None:
        hub.repositories["tester/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        vit.load("hf-hub:tester/tiny")
        hub.close()
        assert same(vit.load("hf-hub:tester/tiny"), vit.load(folder))
        with pytest.raises(UsageError, match="hf-hub:tester/other: the hub cannot be reached, and it is not in the ca"):
            vit.load("hf-hub:tester/other")

    def test_a_revision_is_a_branch_a_tag_or_a_commit(self, folder: Path, hub: HubServer) -> None:
        hub.repositories["tester/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert same(vit.load("hf-hub:tester/tiny@v1.0"), vit.load(folder))
        assert {path.split("/revision/")[1] for path in hub.requested if "/revision/" in path} == {"v1.0"}
        for source in ("tester/tiny", "hf-hub:tester/tiny"):
            assert same(VisionTransformer.from_pretrained(source, revision="v1.0"), vit.load(folder))
            with pytest.raises(UsageError, match="@none: this repository has no such branch, tag or commit"):
                VisionTransformer.from_pretrained(source, revision="none")
        with pytest.raises(UsageError, match="revision: expected null"):
            VisionTransformer.from_pretrained(folder, revision="v1.0")

    def test_a_token_is_sent(self, folder: Path, hub: HubServer) -> None:
        hub.repositories["tester/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.private = "hf_secret"
        with pytest.raises(UsageError, match="no such repository, or it is private"):
            vit.load("hf-hub:tester/tiny")
        for load in (vit.load, VisionTransformer.from_pretrained):
            assert same(load("hf-hub:tester/tiny", token="hf_secret"), vit.load(folder))

    def test_a_slip_in_a_path_is_no_request(self, hub: HubServer, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs").mkdir()
        for name in ("runs/nope", "./nope", "../nope"):
            with pytest.raises(UsageError, match=f"no folder {name} here"):
                VisionTransformer.from_pretrained(name)
        for name in ("/nope", "nope", "x" * 300):
            with pytest.raises(UsageError, match="not a checkpoint or run folder"):
                VisionTransformer.from_pretrained(name)
        assert not hub.requested
        with pytest.raises(UsageError, match=r"no such repository.* and no folder tester/nope here"):
            VisionTransformer.from_pretrained("tester/nope")

    def test_a_snapshot_of_the_cache_is_a_folder_too(self, folder: Path, hub: HubServer) -> None:
        hub.repositories["tester/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        snapshot = sources.fetch("hf-hub:tester/tiny")
        assert (snapshot / "config.json").is_symlink()
        assert same(vit.load(snapshot), vit.load(folder))
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(folder / "config.json")
        with pytest.raises(UsageError, match="a link out of"):
            vit.load(snapshot)

    def test_what_is_not_there_or_no_checkpoint_is_named(self, hub: HubServer) -> None:
        with pytest.raises(UsageError, match="hf-hub:tester/none: there is no such repository"):
            vit.load("hf-hub:tester/none")
        hub.repositories["tester/foreign"] = {"config.json": b'{"architecture": "resnet18"}', "model.safetensors": b""}
        with pytest.raises(UsageError, match=r"config.json: not a checkpoint of this project"):
            vit.load("hf-hub:tester/foreign")
        hub.repositories["tester/empty"] = {"README.md": b""}
        with pytest.raises(UsageError, match="hf-hub:tester/empty: not a checkpoint or run folder"):
            vit.load("hf-hub:tester/empty")
        hub.broken = True
        with pytest.raises(UsageError, match="hf-hub:tester/other: "):
            vit.load("hf-hub:tester/other")

    @pytest.mark.parametrize(
        "name", ["", "tiny", "../tiny", "a/../b", "a/..", "a/b/c", "http://x/y", "a b/c", "a/b@", "a/b@x@y", "a/b@../x"]
    )
    def test_odd_names_are_refused_before_anything_is_asked(self, hub: HubServer, name: str) -> None:
        with pytest.raises(UsageError, match="expected hf-hub:owner/name"):
            vit.load(f"hf-hub:{name}")
        assert not hub.requested

    def test_push_and_load_again(self, folder: Path, hub: HubServer) -> None:
        """The real client creates the repository and commits; the server decodes what it sent."""
        model = vit.load(folder)
        where = model.push_to_hub("tester/pushed", token="hf_test", commit_message="First", private=True)
        assert hub.messages == ["First"]
        assert where.startswith(f"{hub.url}/tester/pushed/commit/")
        sent = hub.repositories["tester/pushed"]
        assert sent.keys() == set(sources.FILES)
        assert sent["config.json"] == (folder / "config.json").read_bytes()
        card = sent["README.md"].decode()
        assert card.startswith("---\nlicense: mit\n")
        assert 'vit.load("hf-hub:tester/pushed")' in card
        assert same(VisionTransformer.from_pretrained("tester/pushed"), model)
        hub.broken = True
        with pytest.raises(UsageError, match=r"hf-hub:tester/pushed: the transfer failed .*500"):
            model.push_to_hub("tester/pushed", token="hf_test")


class TestSavePretrained:
    def test_arguments_have_hugging_faces_names(self) -> None:
        from huggingface_hub import ModelHubMixin

        for name, asked in (
            ("from_pretrained", {"pretrained_model_name_or_path", "revision", "token"}),
            ("save_pretrained", {"save_directory"}),
            ("push_to_hub", {"repo_id", "commit_message", "private", "token"}),
        ):
            theirs = inspect.signature(getattr(ModelHubMixin, name)).parameters.keys()
            ours = inspect.signature(getattr(VisionTransformer, name)).parameters.keys()
            assert asked <= theirs & ours

    def test_gives_the_folder_again(self, folder: Path, tmp_path: Path) -> None:
        model = VisionTransformer.from_pretrained(folder)
        model.save_pretrained(tmp_path / "new" / "copy")
        assert {path.name for path in (tmp_path / "new" / "copy").iterdir()} == set(sources.FILES)
        assert (tmp_path / "new" / "copy" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
        theirs, copies = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "new" / "copy"))
        assert theirs.keys() == copies.keys()
        assert all(torch.equal(theirs[name], copies[name]) for name in theirs)
        card = (tmp_path / "new" / "copy" / "README.md").read_text()
        for part in (
            "# copy: a multi-head",
            "| validation accuracy | 50.00% |",
            "| optim.lr | 0.02 |",
            "45000 training",
            "not for\ndecisions",
        ):
            assert part in card

    def test_a_model_of_which_nothing_is_known_is_not_saved(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"expected a model from vit.load"):
            VisionTransformer(ViTConfig(dim=16, depth=1)).save_pretrained(tmp_path / "folder")
        assert not (tmp_path / "folder").exists()

    def test_a_folder_goes_before_the_hub(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path.parent)
        assert same(VisionTransformer.from_pretrained(f"{tmp_path.name}/tiny"), vit.load(folder))


class TestWandb:
    def upload(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        tracker = Tracker(tmp_path / "run", Config(name="tiny", wandb=WandbConfig(project="heads")))
        tracker.wandb.upload(folder, "tiny", ["best"], {})
        tracker.finish()

    def test_what_training_uploads_loads_again(self, folder: Path, tmp_path: Path, wandb_server: WandbServer) -> None:
        (folder / "other.bin").write_bytes(b"more")
        self.upload(folder, tmp_path)
        assert same(vit.load("wandb:tester/heads/tiny:best"), vit.load(folder))
        fetched = sources.fetch("wandb:tester/heads/tiny:best")
        assert {path.name for path in fetched.iterdir()} == set(sources.FILES)
        assert fetched.is_relative_to(tmp_path / "cache")
        with pytest.raises(UsageError, match=r"wandb:tester/heads/tiny:none: the transfer failed \(.*not found"):
            vit.load("wandb:tester/heads/tiny:none")

    def test_references_are_not_followed(self, folder: Path, tmp_path: Path, wandb_server: WandbServer) -> None:
        self.upload(folder, tmp_path)
        manifest = json.loads(wandb_server.storage["/storage/m"])
        manifest["contents"]["config.json"]["ref"] = "file:///etc/passwd"
        wandb_server.storage["/storage/m"] = json.dumps(manifest).encode()
        with pytest.raises(UsageError, match=r"config.json is a reference to file:///etc/passwd, which is not"):
            vit.load("wandb:tester/heads/tiny:best")

    def test_without_an_account_nothing_is_asked(self) -> None:
        with pytest.raises(UsageError, match="wandb:tester/heads/tiny:best: not logged in to W&B"):
            vit.load("wandb:tester/heads/tiny:best")

    def test_without_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        with pytest.raises(
            UsageError, match=r"^wandb:tester/heads/tiny:best: the transfer failed .*connection refused"
        ):
            vit.load("wandb:tester/heads/tiny:best")
        assert wandb.setup().settings.x_graphql_retry_max is None  # as before; a training of this process is patient

    @pytest.mark.parametrize(
        "name", ["", "tiny", "heads/tiny:best", "a/b/c", "../b/c:best", "a/../c:best", "a/b/c:x:y"]
    )
    def test_odd_names_are_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="expected wandb:entity/project/name:alias"):
            vit.load(f"wandb:{name}")
