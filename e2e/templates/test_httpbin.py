"""`httpbin`: its service is up when a sandbox is made."""


def test_it_answers_at_once(make, ports):
    sandbox = make("httpbin")
    assert ports(sandbox, 8080, path="/status/204").status_code == 204
    answer = ports(sandbox, 8080, "POST", "/post", content=b"some text")
    assert answer.json()["data"] == "some text"
