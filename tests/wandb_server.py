"""A W&B server on the loopback interface, just enough of one: runs, rows, resuming, files, artifacts, grid sweeps."""

import gzip
import hashlib
import http.server
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

import yaml

FORBIDDEN = {"errors": [{"message": "not implemented by this test server"}]}


@dataclass
class StoredRun:
    """What the server knows of one run."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    job_type: str | None = None
    group: str | None = None
    sweep: str | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False


class WandbServer:
    """`runs` holds what clients sent. `drop_everything` makes it stop answering, like a server that died."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.sweep: dict[str, Any] = {}  # the file of the one sweep there is
        self.points: list[dict[str, Any]] = []  # of its grid, that no agent has yet
        self.views: list[dict[str, Any]] = []  # workspaces and reports
        self.storage: dict[str, bytes] = {}  # what was uploaded, by the path of the upload
        self.operations: list[str] = []
        self.drop_everything = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if outer.drop_everything:
                    self.connection.close()
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = outer.graphql(json.loads(body)) if self.path == "/graphql" else outer.stream(self.path, body)
                self.reply(answer)

            def do_PUT(self) -> None:
                outer.storage[self.path] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.reply({})

            def do_GET(self) -> None:
                self.reply(outer.stored(self.path) or {})

            def reply(self, answer: dict[str, Any] | bytes) -> None:
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that closes its connections

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation[1] if operation else "?"
        self.operations.append(name)
        handler = getattr(self, f"do_{name}", None)
        return {"data": handler(variables)} if handler else FORBIDDEN

    def do_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}}

    do_GetDefaultEntity = do_Viewer

    def do_ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def do_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        if run is None:
            return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "tester"}, "bucket": None}}
        bucket = {
            "id": run.name,
            "name": run.name,
            "historyLineCount": len(run.rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.rows[-1] if run.rows else {}),
            "config": json.dumps(run.config),
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "tester"}, "bucket": bucket}}

    def do_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name))
        if variables.get("config"):
            run.config |= json.loads(variables["config"])  # {key: {"value": value}}
        run.job_type = variables.get("jobType") or run.job_type
        run.group = variables.get("groupName") or run.group
        run.sweep = variables.get("sweep") or run.sweep
        project = {"id": "p", "name": variables.get("project") or "p", "entity": {"id": "e", "name": "tester"}}
        bucket = {
            "id": name,
            "name": name,
            "displayName": variables.get("displayName") or name,
            "description": None,
            "config": variables.get("config"),
            "sweepName": run.sweep,
            "project": project,
            "historyLineCount": len(run.rows),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def do_UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.sweep = yaml.safe_load(variables["config"])
        grid = {key: parameter["values"] for key, parameter in self.sweep["parameters"].items()}
        self.points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        project = {"id": "p", "name": variables["projectName"], "entity": {"id": "e", "name": "tester"}}
        return {"upsertSweep": {"sweep": {"name": "sweep", "project": project}, "configValidationWarnings": []}}

    def do_SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": "s", "name": variables["sweep"], "config": yaml.safe_dump(self.sweep), "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def do_CreateAgent(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def do_Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        """What the agent is to do: nothing while it runs something, else the next point of the grid."""
        commands: list[dict[str, Any]] = []
        if not self.points and variables["runState"] == "{}":
            commands = [{"type": "exit"}]
        elif variables["runState"] == "{}":
            values = {key: {"value": value} for key, value in self.points.pop(0).items()}
            run_id = f"agents-{len(self.points)}"
            commands = [{"type": "run", "run_id": run_id, "program": self.sweep["program"], "args": values}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}

    def do_GetProjects(self, _: dict[str, Any]) -> dict[str, Any]:
        """None yet."""
        return {
            "models": {"pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}, "edges": []}
        }

    def do_CreateProject(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"upsertModel": {"project": {"id": "p"}, "model": {"name": "p"}, "inserted": True}}

    def do_UpsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.views.append(variables)
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {key: variables[key] for key in ("type", "name", "displayName", "description", "spec")}
        return {"upsertView": {"view": view | {"id": f"view{len(self.views)}", "project": project}, "inserted": True}}

    do_upsertView = do_UpsertView2

    def do_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def do_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input", variables)
        self.artifacts.append(given)
        artifact = {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def do_CreateArtifactManifest(self, _: dict[str, Any]) -> dict[str, Any]:
        file = {
            "id": "f",
            "name": "m",
            "displayName": "m",
            "uploadUrl": f"{self.url}/storage/m",
            "uploadHeaders": [],
            "artifact": {"id": "a"},
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def do_UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self.rename(self.do_CreateArtifactManifest(variables), "updateArtifactManifest")

    @staticmethod
    def rename(answer: dict[str, Any], key: str) -> dict[str, Any]:
        return {key: next(iter(answer.values()))}

    def do_CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        specs = variables.get("input", variables)["artifactFiles"]
        edges = [
            {
                "node": {
                    "id": spec["name"],
                    "name": spec["name"],
                    "displayName": spec["name"],
                    "uploadUrl": f"{self.url}/storage/{spec['name']}",
                    "uploadHeaders": [],
                    "storagePath": None,
                    "uploadMultipartUrls": None,
                    "artifact": {"id": "a"},
                }
            }
            for spec in specs
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def do_CommitArtifact(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}

    def do_ArtifactMembershipByName(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The newest artifact that has this name and alias."""
        project = {"id": "p", "internalId": "p", "name": variables["project"], "entity": {"name": variables["entity"]}}
        name, _, alias = variables["name"].partition(":")
        wanted = {"artifactCollectionName": name, "alias": alias}
        having = [each for each in self.artifacts if any(wanted.items() <= a.items() for a in each["aliases"])]
        if not having:
            return {"project": {"artifactCollectionMembership": None}}
        artifact, index = having[-1], self.artifacts.index(having[-1])
        collection = {"__typename": "ArtifactSequence", "name": name, "project": project}
        aliases = [{"__typename": "ArtifactAlias", "id": "l", "alias": alias}]
        times = {"createdAt": "2024-01-01T00:00:00Z", "updatedAt": None}
        found = {
            "__typename": "Artifact",
            "id": "a",
            "artifactSequence": collection,
            "versionIndex": index,
            "artifactType": {"name": artifact["artifactTypeName"]},
            **dict.fromkeys(("description", "metadata", "historyStep", "commitHash")),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "state": "COMMITTED",
            "size": 0,
            "digest": artifact["digest"],
            "fileCount": 3,
            **times,
        }
        membership = {"__typename": "ArtifactCollectionMembership", "id": "m", "versionIndex": index}
        membership |= {"aliases": aliases, "artifactCollection": collection, "artifact": found, **times}
        return {"project": {"artifactCollectionMembership": membership}}

    def do_FetchArtifactManifest(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"artifact": {"currentManifest": {"file": {"directUrl": f"{self.url}/storage/m"}}}}

    def stored(self, path: str) -> bytes | None:
        """GET of an upload, or, at /artifactsV2/.../MD5/NAME, of the one with this checksum."""
        for place, content in self.storage.items():
            if place == path or hashlib.md5(content).hexdigest() in path.split("/"):
                return content
        return None

    def stream(self, path: str, body: bytes) -> dict[str, Any]:
        """POST /files/ENTITY/PROJECT/RUN/file_stream: history lines from an offset on."""
        message = json.loads(body or b"{}")
        run = self.runs[path.split("/")[4]]
        history = (message.get("files") or {}).get("wandb-history.jsonl")
        if history:
            run.rows[history["offset"] :] = [json.loads(line) for line in history["content"]]
        run.finished |= bool(message.get("complete"))
        return {"limits": {}}
