//! Tokens, control routes, identity and CORS (contract 3.2, 3.3).

use serde_json::json;

use crate::support::{Agent, root_or_skip};

fn init(agent: &Agent, body: &serde_json::Value) -> u16 {
    let body = serde_json::to_vec(body).expect("JSON");
    agent
        .request("POST", "/init", &[("content-type", "application/json")], &body)
        .status
}

#[test]
fn health_needs_nothing() {
    let agent = Agent::start();
    assert_eq!(agent.get("/health").status, 204);
    assert_eq!(
        init(
            &agent,
            &json!({"sandboxId": "i1", "templateId": "t", "hostname": "h", "accessToken": "tok"})
        ),
        204
    );
    assert_eq!(agent.get("/health").status, 204);
}

#[test]
fn outsiders_do_not_learn_of_control_routes() {
    let agent = Agent::with_control_peer("192.0.2.1");
    for path in ["/init", "/tunnel?port=1", "/freeze", "/upgrade"] {
        for method in ["GET", "POST"] {
            let answer = agent.request(method, path, &[], b"");
            assert_eq!(answer.status, 404, "{method} {path}");
            let message = "This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL";
            let plain = path.split('?').next();
            assert_eq!(answer.json(), json!({"message": message, "path": plain, "code": 404}));
        }
    }
}

#[test]
fn token_guards_everything_else() {
    let agent = Agent::start();
    assert_eq!(agent.get("/envs").status, 200);
    assert_eq!(
        init(
            &agent,
            &json!({"sandboxId": "i1", "templateId": "t", "hostname": "h", "accessToken": "tok"})
        ),
        204
    );
    let refused = agent.get("/envs");
    assert_eq!(refused.status, 401);
    let message = "unauthorized access, please provide a valid access token or method signing if supported";
    assert_eq!(refused.json(), json!({"code": 401, "message": message}));
    assert_eq!(agent.call("process.Process/List", &json!({})).status, 401);
    assert_eq!(agent.request("GET", "/envs", &[("x-access-token", "wrong")], b"").status, 401);
    let envs = agent.request("GET", "/envs", &[("X-Access-Token", "tok")], b"");
    assert_eq!(
        envs.json(),
        json!({"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "i1", "E2B_TEMPLATE_ID": "t"})
    );
}

#[test]
fn a_new_identity_leaves_nothing_of_the_old_one() {
    if !root_or_skip("changing the host name") {
        return;
    }
    let agent = Agent::start();
    let first = json!({
        "sandboxId": "i1", "templateId": "t1", "hostname": "first", "accessToken": "tok",
        "envVars": {"SECRET": "s"}, "defaultUser": "root", "defaultWorkdir": "/tmp",
    });
    assert_eq!(init(&agent, &first), 204);
    assert_eq!(
        init(&agent, &json!({"sandboxId": "i2", "templateId": "t2", "hostname": "second"})),
        204
    );
    let outcome = agent.run(
        None,
        "id -u; echo $SECRET; hostname; pwd; echo $E2B_SANDBOX_ID $E2B_TEMPLATE_ID",
    );
    let home = agent.home("");
    let expected = format!(
        "1000\n\nsecond\n{}\ni2 t2\n",
        home.display().to_string().trim_end_matches('/')
    );
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    let read = |path: &str| std::fs::read_to_string(agent.root.path().join(path)).expect("written");
    assert_eq!(read("run/e2b/.E2B_SANDBOX"), "true");
    assert_eq!(read("run/e2b/.E2B_SANDBOX_ID"), "i2");
    assert_eq!(read("run/e2b/.E2B_TEMPLATE_ID"), "t2");
    assert_eq!(read("etc/hosts").matches("# sandbox").count(), 1);
}

#[test]
fn browsers_may_call_from_anywhere() {
    let agent = Agent::start();
    assert_eq!(
        init(
            &agent,
            &json!({"sandboxId": "i1", "templateId": "t", "hostname": "h", "accessToken": "tok"})
        ),
        204
    );
    let headers = [
        ("origin", "https://example.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-access-token,keepalive-ping-interval"),
    ];
    let preflight = agent.request("OPTIONS", "/process.Process/Start", &headers, b"");
    assert!(preflight.status < 300, "{}", preflight.status);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight.header("access-control-max-age"), Some("7200"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("*"));
    let refused = agent.request("GET", "/envs", &headers[..1], b"");
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("*"),
        "errors too must be readable"
    );
}
