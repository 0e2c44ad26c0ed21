//! Connections into the sandbox.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use dormouse_network::{SANDBOX_ADDRESS, Slot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Internet, PUBLIC, inside, listen, on_host, refused, run};

/// The router's address on its uplink.
fn uplink_address(slot: &Slot) -> SocketAddr {
    inside(slot.router_netns(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // Sends nothing: only asks for the way.
        socket.connect((PUBLIC, 9)).expect("a default route");
        socket.local_addr().expect("an address")
    })
}

#[test]
fn the_daemon_reaches_a_server_in_the_sandbox() {
    on_host(async |host| {
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let (server, address) = listen(slot.sandbox_netns(), "169.254.77.2:0");

        let (client, accepted) = tokio::join!(slot.connect(address.port()), server.accept());
        let (mut client, (mut accepted, _)) = (client.expect("a connection"), accepted.expect("a client"));
        client.write_all(b"hello").await.expect("writes");
        let mut heard = [0; 5];
        accepted.read_exact(&mut heard).await.expect("reads");

        assert_eq!(&heard, b"hello");
        assert!(client.nodelay().expect("a socket"));
    });
}

#[test]
fn nothing_listening_is_refused_at_once() {
    on_host(async |host| {
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");

        let error = slot.connect(1).await.expect_err("nobody there");

        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_dialer_ends_with_its_slot() {
    on_host(async |host| {
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let dialer = slot.dialer();
        slot.release().await.expect("released");

        let error = dialer.connect(1).await.expect_err("no slot any more");

        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    });
}

#[test]
fn the_host_itself_reaches_no_port_of_the_sandbox() {
    on_host(async |host| {
        let internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let (_server, address) = listen(slot.sandbox_netns(), "0.0.0.0:0");
        let here = "/proc/thread-self/ns/net".as_ref();
        let inner = SocketAddr::from((SANDBOX_ADDRESS, address.port()));
        let outer = SocketAddr::new(uplink_address(&slot).ip(), address.port());
        // Even if somebody shows the host, and the world, the way in.
        run("ip", &format!("route add 169.254.77.0/30 via {}", outer.ip()));
        inside(&internet.netns(), || {
            run("ip", "route add 169.254.77.0/30 via 198.51.100.1");
            run("ip", "route add 10.119.0.0/16 via 198.51.100.1");
        });

        assert!(refused(here, inner));
        assert!(refused(here, outer));
        assert!(refused(&internet.netns(), inner));
        assert!(refused(&internet.netns(), outer));
    });
}
