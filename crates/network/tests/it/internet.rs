//! What a sandbox can reach, and how that is switched.

use std::io::{Read, Write};
use std::net::SocketAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::support::{Internet, PUBLIC, Upstream, ask, connect, inside, listen, on_host, output, refused, run};

#[test]
fn the_internet_is_switched_off_and_on() {
    on_host(async |host| {
        let internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let (_server, address) = listen(&internet.netns(), &format!("{PUBLIC}:0"));

        connect(slot.sandbox_netns(), address).expect("on by default");
        slot.set_internet(false).await.expect("switched off");
        assert!(refused(slot.sandbox_netns(), address));
        slot.set_internet(true).await.expect("switched on");
        connect(slot.sandbox_netns(), address).expect("on again");
    });
}

#[test]
fn a_pool_can_start_slots_without_internet() {
    on_host(async |host| {
        let internet = Internet::attach();
        let mut config = host.config("data");
        config.internet = false;
        let pool = host.open(config).await;
        let slot = pool.take().await.expect("a slot");
        let (_server, address) = listen(&internet.netns(), &format!("{PUBLIC}:0"));

        assert!(refused(slot.sandbox_netns(), address));
        slot.set_internet(true).await.expect("switched on");
        connect(slot.sandbox_netns(), address).expect("on");
    });
}

#[test]
fn a_slot_can_be_taken_without_internet() {
    on_host(async |host| {
        let internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take_with(false).await.expect("a slot");
        let (_server, address) = listen(&internet.netns(), &format!("{PUBLIC}:0"));

        assert!(refused(slot.sandbox_netns(), address));
        slot.set_internet(true).await.expect("switched on");
        connect(slot.sandbox_netns(), address).expect("on");
    });
}

#[test]
fn connections_go_on_when_the_internet_is_switched_off() {
    on_host(async |host| {
        let internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let (server, address) = listen(&internet.netns(), &format!("{PUBLIC}:0"));
        let mut client = connect(slot.sandbox_netns(), address).expect("on");
        let (accepted, _) = server.accept().await.expect("a client");
        slot.set_internet(false).await.expect("switched off");

        let mut accepted = accepted.into_std().expect("a socket");
        accepted.set_nonblocking(false).expect("a socket");
        client.write_all(b"still here").expect("writes");
        let mut heard = [0; 10];
        accepted.read_exact(&mut heard).expect("reads");

        assert_eq!(&heard, b"still here");
    });
}

#[test]
fn the_internet_sees_the_hosts_address() {
    on_host(async |host| {
        let internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let (server, address) = listen(&internet.netns(), &format!("{PUBLIC}:0"));

        let _client = connect(slot.sandbox_netns(), address).expect("on");
        let (_, peer): (_, SocketAddr) = server.accept().await.expect("a client");

        assert_eq!(peer.ip().to_string(), "198.51.100.1");
    });
}

#[test]
fn other_firewalls_let_sandboxes_pass() {
    if std::process::Command::new("iptables").arg("-V").output().is_err() {
        println!("skipped: no iptables");
        return;
    }
    on_host(async |host| {
        let internet = Internet::attach();
        run("iptables", "-P INPUT DROP");
        run("iptables", "-P FORWARD DROP");
        let before = output("iptables", "-S");
        let upstream = Upstream::start().await;
        run("iptables", "-A INPUT -i lo -j ACCEPT");
        let mut config = host.config("data");
        config.dns.upstreams = vec![upstream.address];
        let pool = host.open(config).await;
        let slot = pool.take().await.expect("a slot");
        let (_server, address) = listen(&internet.netns(), &format!("{PUBLIC}:0"));

        connect(slot.sandbox_netns(), address).expect("the internet");
        let answer = ask(slot.sandbox_netns(), "example.test.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);

        pool.uninstall().await.expect("uninstalled");
        run("iptables", "-D INPUT -i lo -j ACCEPT");
        assert_eq!(output("iptables", "-S"), before);
    });
}

#[test]
fn one_sandbox_gets_so_many_connections() {
    on_host(async |host| {
        let internet = Internet::attach();
        let mut config = host.config("data");
        config.max_connections = 2;
        let pool = host.open(config).await;
        let slot = pool.take().await.expect("a slot");
        let (_server, address) = listen(&internet.netns(), &format!("{PUBLIC}:0"));

        let _one = connect(slot.sandbox_netns(), address).expect("a connection");
        let _two = connect(slot.sandbox_netns(), address).expect("a connection");

        assert!(refused(slot.sandbox_netns(), address));
    });
}

#[test]
fn refusal_is_told_at_once() {
    on_host(async |host| {
        let _internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        slot.set_internet(false).await.expect("switched off");

        let error = connect(slot.sandbox_netns(), SocketAddr::new(PUBLIC.parse().expect("an address"), 80)).expect_err("off");

        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
    });
}

#[test]
fn devices_have_the_hosts_mtu_and_no_ipv6() {
    on_host(async |host| {
        let _internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");

        let (devices, ipv6) = inside(slot.sandbox_netns(), || {
            (output("ip", "-o link show eth0"), output("ip", "-6 addr show"))
        });

        assert!(devices.contains("mtu 1380"), "{devices}");
        assert_eq!(ipv6, "");
    });
}
