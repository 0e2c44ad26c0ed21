//! Names: the forwarder, its cache, its hook.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dormouse_network::{NetworkConfig, Query, QueryPolicy, Verdict};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, RecordType};

use crate::support::{ANSWER, TestHost, Upstream, ask, ask_tcp, on_host};

fn config(host: &TestHost, upstream: &Upstream) -> NetworkConfig {
    let mut config = host.config("data");
    config.dns.upstreams = vec![upstream.address];
    config
}

#[test]
fn the_gateway_answers_dns_even_without_internet() {
    on_host(async |host| {
        let upstream = Upstream::start().await;
        let pool = host.open(config(&host, &upstream)).await;
        let slot = pool.take().await.expect("a slot");
        slot.set_internet(false).await.expect("switched off");

        let udp = ask(slot.sandbox_netns(), "example.test.", RecordType::A).await;
        let tcp = ask_tcp(slot.sandbox_netns(), "example.test.", RecordType::A).await;

        for answer in [udp, tcp] {
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert_eq!(answer.answers[0].data, RData::A(A(ANSWER)));
        }
    });
}

#[test]
fn answers_are_kept() {
    on_host(async |host| {
        let upstream = Upstream::start().await;
        let pool = host.open(config(&host, &upstream)).await;
        let slot = pool.take().await.expect("a slot");

        ask(slot.sandbox_netns(), "example.test.", RecordType::A).await;
        ask(slot.sandbox_netns(), "example.test.", RecordType::A).await;

        assert_eq!(upstream.asked(), 1);
    });
}

#[test]
fn a_name_that_does_not_exist_does_not() {
    on_host(async |host| {
        let upstream = Upstream::start().await;
        let pool = host.open(config(&host, &upstream)).await;
        let slot = pool.take().await.expect("a slot");

        let answer = ask(slot.sandbox_netns(), "missing.test.", RecordType::A).await;

        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn long_answers_are_cut_short_over_udp_and_whole_over_tcp() {
    on_host(async |host| {
        let upstream = Upstream::start().await;
        let pool = host.open(config(&host, &upstream)).await;
        let slot = pool.take().await.expect("a slot");

        let udp = ask(slot.sandbox_netns(), "long.test.", RecordType::TXT).await;
        let tcp = ask_tcp(slot.sandbox_netns(), "long.test.", RecordType::TXT).await;

        assert!(udp.metadata.truncation);
        assert!(!tcp.metadata.truncation);
        assert_eq!(tcp.answers.len(), 1);
    });
}

#[test]
fn a_silent_upstream_is_a_server_failure() {
    on_host(async |host| {
        // Bound and never read.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let mut config = host.config("data");
        config.dns.upstreams = vec![silent.local_addr().expect("bound")];
        config.dns.timeout = Duration::from_millis(100);
        let pool = host.open(config).await;
        let slot = pool.take().await.expect("a slot");

        let answer = ask(slot.sandbox_netns(), "example.test.", RecordType::A).await;

        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    });
}

/// Remembers who asked what; refuses and hides some names.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl QueryPolicy for Notes {
    fn decide(&self, query: Query<'_>) -> Verdict {
        let slot = query.slot.map(ToString::to_string).unwrap_or_default();
        self.0
            .lock()
            .expect("no panics")
            .push(format!("{slot} {} {}", query.name, query.kind));
        match query.name {
            "refused.test." => Verdict::Refuse,
            "hidden.test." => Verdict::NotFound,
            _ => Verdict::Forward,
        }
    }
}

#[test]
fn the_policy_sees_who_asks_and_decides() {
    on_host(async |host| {
        let upstream = Upstream::start().await;
        let notes = Arc::new(Notes::default());
        let mut config = config(&host, &upstream);
        config.dns.policy = Arc::clone(&notes) as Arc<dyn QueryPolicy>;
        let pool = host.open(config).await;
        let (one, two) = (pool.take().await.expect("a slot"), pool.take().await.expect("a slot"));

        let forwarded = ask(one.sandbox_netns(), "Example.test.", RecordType::A).await;
        let refused = ask(two.sandbox_netns(), "refused.test.", RecordType::A).await;
        let hidden = ask(two.sandbox_netns(), "hidden.test.", RecordType::AAAA).await;

        assert_eq!(forwarded.metadata.response_code, ResponseCode::NoError);
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
        assert_eq!(hidden.metadata.response_code, ResponseCode::NXDomain);
        let (one, two) = (one.name(), two.name());
        let expected = [
            format!("{one} example.test. A"),
            format!("{two} refused.test. A"),
            format!("{two} hidden.test. AAAA"),
        ];
        assert_eq!(*notes.0.lock().expect("no panics"), expected);
        assert_eq!(upstream.asked(), 1);
    });
}

#[test]
fn a_restarted_daemon_answers_the_slots_of_the_one_before() {
    on_host(async |host| {
        let upstream = Upstream::start().await;
        let pool = host.open(config(&host, &upstream)).await;
        let slot = pool.take().await.expect("a slot");
        let (name, netns) = (slot.name().clone(), slot.sandbox_netns().to_path_buf());
        drop(slot);
        pool.close().await;
        drop(pool);

        let pool = host.open(config(&host, &upstream)).await;
        let answer = ask(&netns, "example.test.", RecordType::A).await;

        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        pool.adopt(&name).await.expect("adopted");
    });
}
