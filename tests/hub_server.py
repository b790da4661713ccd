"""A Hugging Face hub on the loopback interface, just enough of one: models to list, download, create and commit to."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from typing import Any


class HubServer:
    """`repositories` holds the files of each `owner/name`; `requested` every path asked for. `broken` answers 500.

    Revisions are main, v1.0 and the commit. With `private` set, nothing is there for whom does not send that token.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requested: list[str] = []
        self.messages: list[str] = []  # of the commits
        self.broken = False
        self.private: str | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            # Of HTTP/1.0, or a client would still be served over a connection from before `close`.
            def do_GET(self) -> None:
                self.answer(*outer.get(self.path, self.headers.get("Authorization")))

            do_HEAD = do_GET

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.answer(*outer.post(self.path, body))

            def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def revision(self, name: str) -> str:
        """The commit of a repository: a hash of what it holds."""
        content = repr(sorted(self.repositories[name].items())).encode()
        return hashlib.sha1(content).hexdigest()

    def get(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        self.requested.append(path)
        path = urllib.parse.unquote(path.partition("?")[0])
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)/?(.*)", path)
        if self.broken:
            return 500, {}, b""
        allowed = self.private is None or authorization == f"Bearer {self.private}"
        if not found or found[1] not in self.repositories or not allowed:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        name, what, revision, file = found.groups()
        files, commit = self.repositories[name], self.revision(name)
        if revision not in ("main", "v1.0", commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if what == "revision":
            siblings = [{"rfilename": each} for each in files]
            return as_json({"id": name, "sha": commit, "siblings": siblings, "private": False})
        if what == "tree":
            return as_json(
                [{"type": "file", "path": each, "size": len(files[each]), "oid": digest(files[each])} for each in files]
            )
        headers = {"ETag": f'"{digest(files[file])}"', "X-Repo-Commit": commit}
        return 200, headers, files[file]

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.requested.append(path)
        if self.broken:
            return 500, {}, b""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'tester')}/{asked['name']}"
            self.repositories.setdefault(name, {})
            return as_json({"url": f"{self.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            return as_json({"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path.partition("?")[0])
        assert found, path
        name, what = found.groups()
        if what == "preupload":
            asked = json.loads(body)["files"]
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            return as_json({"files": files})
        for line in body.splitlines():
            part = json.loads(line)
            if part["key"] == "header":
                self.messages.append(part["value"]["summary"])
            if part["key"] == "file":
                self.repositories[name][part["value"]["path"]] = base64.b64decode(part["value"]["content"])
        commit = self.revision(name)
        return as_json({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})


def as_json(answer: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
