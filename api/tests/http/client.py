"""A client written from the OpenAPI document alone: asks for every GET that takes no number, reads events, and drives a
VM through its life if a kernel is given. Standard library only."""

import http.client
import json
import socket
import sys
import time


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def ask(connection, method, path, body=None):
    headers = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    response = connection.getresponse()
    data = response.read()
    is_json = "json" in (response.getheader("content-type") or "")
    return response.status, json.loads(data) if is_json else data.decode()


def main():
    path, kernel = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    connection = Connection(path)
    status, document = ask(connection, "GET", "/v1/openapi.json")
    assert status == 200 and document["openapi"].startswith("3.1"), document
    operations = {
        operation["operationId"]: (method.upper(), where, operation)
        for where, item in document["paths"].items()
        for method, operation in item.items()
    }

    def call(name, body=None, **fields):
        method, where, operation = operations[name]
        query = "&".join(f"{k}={v}" for k, v in fields.items() if k != "id")
        where = where.format(id=fields.get("id")) + ("?" + query if query else "")
        status, answer = ask(connection, method, where, body)
        assert str(status) in operation["responses"], (name, status, answer)
        return status, answer

    for name, (method, where, _) in operations.items():
        if method == "GET" and "{" not in where and name != "getEvents":
            call(name)
    assert call("getEvents", follow="false")[0] == 200
    if kernel:
        spec = {"kernel": kernel, "numa": [{"id": 0, "memory": "32M", "vcpus": [0]}], "serial": "none"}
        assert call("putVm", spec)[0] == 201
        assert call("bootVm")[0] == 202
        while call("getVm")[1]["state"] == "starting":
            time.sleep(0.01)
        assert call("pauseVm")[1]["state"] == "paused"
        assert call("resumeVm")[1]["state"] == "running"
        assert call("getVnode", id=0, fresh="true")[1]["residency"]["absent"] < 32 << 20
        assert call("getVnode", id=1)[1]["code"] == "no_such_vnode"
        assert call("putAffinity", {"cpus": 0}, id=0)[1]["affinity"] == "0"
        assert call("deleteVm")[0] == 204
    print("ok")


main()
