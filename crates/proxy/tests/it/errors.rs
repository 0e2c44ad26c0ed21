//! What the proxy says when the sandbox says nothing (contract 3.2, 4.5).

use dormouse_control::{ControlError, RouteError};
use http::Request;
use serde_json::{Value, json};

use crate::support::*;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

async fn check_json(world: &World, host: &str, status: u16, expected: Value) {
    let answer = world
        .send(Request::get("/").header("host", host).body(empty()).unwrap())
        .await;
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["content-type"], "application/json; charset=utf-8");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    assert_eq!(answer.headers().get("retry-after").is_some(), status == 429);
    assert_eq!(json(answer).await, expected);
}

async fn check_page(world: &World, host: &str, status: u16, phrases: &[&str]) {
    let request = Request::get("/")
        .header("host", host)
        .header("user-agent", FIREFOX)
        .header("accept", "text/html,*/*;q=0.8");
    let answer = world.send(request.body(empty()).unwrap()).await;
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let page = text(answer).await;
    assert!(page.starts_with("<html") && page.ends_with("</html>"), "{page}");
    for phrase in phrases {
        assert!(page.contains(phrase), "{phrase} in {page}");
    }
}

#[tokio::test]
async fn an_unknown_sandbox_is_not_found() {
    let world = World::new().await;
    let body = json!({ "sandboxId": ID, "message": "The sandbox was not found", "code": 502 });
    check_json(&world, HOST, 502, body).await;
    check_page(&world, HOST, 502, &["Sandbox Not Found", ID]).await;
    assert_eq!(world.double.dials(), 0);
}

#[tokio::test]
async fn a_port_without_a_listener_is_not_open() {
    let world = World::new().await;
    world.double.run(ID, []);
    let body = json!({ "sandboxId": ID, "message": "The sandbox is running but port is not open", "port": 3000, "code": 502 });
    check_json(&world, HOST, 502, body).await;
    // The first attempt, and four more.
    assert_eq!(world.double.dials(), 5);
    check_page(&world, HOST, 502, &["no service running on port", "3000", ID]).await;
}

/// What control says, and the status, the message and a phrase of the page.
type Refused<'a> = (fn() -> RouteError, u16, &'a str, &'a str);

#[tokio::test]
async fn refused_routes_have_their_own_words() {
    let world = World::new().await;
    let missing = "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing";
    let invalid = "Sandbox is secured with traffic access token. Provided token in header 'e2b-traffic-access-token' is invalid";
    let asleep = "This sandbox can't be resumed with the credentials provided. Check your access token and try again.";
    let busy = "The sandbox is still transitioning. Try again in a moment.";
    let table: [Refused<'_>; 6] = [
        (|| RouteError::TokenMissing, 403, missing, "Missing Traffic Access Token"),
        (|| RouteError::TokenInvalid, 403, invalid, "Invalid Traffic Access Token"),
        (|| RouteError::ResumeRefused, 403, asleep, "credentials provided"),
        (|| RouteError::Transitioning, 409, busy, "still transitioning"),
        (
            || RouteError::TooMany("you have 3 of 3".into()),
            429,
            "you have 3 of 3",
            "you have 3 of 3",
        ),
        (
            || RouteError::TooMany(String::new()),
            429,
            "Sandbox limit reached",
            "Sandbox Limit Reached",
        ),
    ];
    for (error, status, message, phrase) in table {
        world.double.refuse(ID, error);
        check_json(
            &world,
            HOST,
            status,
            json!({ "sandboxId": ID, "message": message, "code": status }),
        )
        .await;
        check_page(&world, HOST, status, &[phrase, ID]).await;
    }
    assert_eq!(world.double.dials(), 0);
}

#[tokio::test]
async fn a_failed_wake_is_an_unexpected_error() {
    let world = World::new().await;
    world.double.refuse(ID, || RouteError::Failed {
        id: ID.parse().unwrap(),
        source: Box::new(ControlError::ShuttingDown),
    });
    let answer = world.send(get("/")).await;
    assert_eq!(answer.status(), 500);
    assert_eq!(
        text(answer).await,
        "Unexpected error when routing request: Waking sandbox i1abc failed"
    );
}

#[tokio::test]
async fn control_endpoints_of_the_agent_are_reserved() {
    let (world, _player) = World::with_player().await;
    let message = "This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL";
    let paths = [
        ("/init", "/init"),
        ("/init?x=1", "/init"),
        ("//init", "/init"),
        ("/./freeze", "/freeze"),
        ("/%75nfreeze", "/unfreeze"),
        ("/foo/../collapse", "/collapse"),
        ("/fsfreeze/", "/fsfreeze"),
        ("/%2566sthaw", "/fsthaw"),
        ("http://49983-i1abc.box.example//upgrade", "/upgrade"),
        ("/tunnel?port=22", "/tunnel"),
    ];
    for (path, canonical) in paths {
        for method in ["GET", "POST", "PUT", "OPTIONS"] {
            let answer = world
                .ask(&format!(
                    "{method} {path} HTTP/1.1\nhost: 49983-i1abc.box.example\nconnection: close\n\n"
                ))
                .await;
            let (head, body) = answer.split_once("\n\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 404 "), "{method} {path} {answer}");
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!(body, json!({ "message": message, "path": canonical, "code": 404 }));
        }
    }
    assert_eq!(world.double.routes(), 0);
}

#[tokio::test]
async fn such_paths_are_free_on_other_ports() {
    let (world, player) = World::with_player().await;
    let mut wire = world.connect().await;
    wire.say(&format!("GET //init HTTP/1.1\nhost: {HOST}\n\n")).await;
    let (_, head) = player.request().await;
    assert!(head.starts_with("GET //init HTTP/1.1\n"), "{head}");
}

#[tokio::test]
async fn errors_about_the_agent_can_be_read_across_origins_and_others_not() {
    let world = World::new().await;
    let agent = world
        .send(
            Request::get("/health")
                .header("host", "49983-i1abc.box.example")
                .body(empty())
                .unwrap(),
        )
        .await;
    assert_eq!(agent.headers()["access-control-allow-origin"], "*");
    let other = world.send(get("/")).await;
    assert!(!other.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_service_that_hangs_up_gave_no_answer() {
    let (world, player) = World::with_player().await;
    let asked = tokio::spawn(async move { (world.send(get("/")).await, world) });
    drop(player.request().await);
    let (answer, _world) = asked.await.unwrap();
    assert_eq!(answer.status(), 502);
    let body = json(answer).await;
    assert_eq!(body["sandboxId"], ID);
    assert_eq!(body["port"], 3000);
}

#[tokio::test]
async fn a_service_that_speaks_nonsense_gave_no_answer() {
    let (world, player) = World::with_player().await;
    for nonsense in [
        "SSH-2.0-OpenSSH_9.9\n",
        "HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: x\n\n",
    ] {
        let mut wire = world.connect().await;
        wire.say(&format!("GET / HTTP/1.1\nhost: {HOST}\n\n")).await;
        let (mut sandbox, _) = player.request().await;
        sandbox.say(nonsense).await;
        assert!(wire.head().await.starts_with("HTTP/1.1 502 "), "{nonsense}");
    }
}

#[tokio::test]
async fn head_requests_get_errors_without_bodies() {
    let world = World::new().await;
    let answer = world
        .ask(&format!("HEAD / HTTP/1.1\nhost: {HOST}\nconnection: close\n\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with("\n\n"), "{answer}");
}

#[tokio::test]
async fn who_still_sends_hears_the_refusal() {
    let world = World::new().await;
    let body = vec![0; 2 << 20];
    let request = Request::post("/files").header("host", HOST).body(full(body)).unwrap();
    assert_eq!(world.send(request).await.status(), 502);
}
