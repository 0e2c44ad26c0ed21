//! What a sandbox cannot reach, with its internet on.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use dormouse_network::SANDBOX_ADDRESS;

use crate::support::{Internet, PUBLIC, connect, inside, listen, on_host, output, refused, run};

#[test]
fn the_hosts_own_addresses_are_out_of_reach() {
    on_host(async |host| {
        let _internet = Internet::attach();
        run("ip", "addr add 203.0.113.7/32 dev lo");
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        // Added after the slot was made: the rules on the host know it all the same.
        run("ip", "addr add 203.0.113.8/32 dev lo");
        let server = TcpListener::bind("0.0.0.0:0").expect("a server on all of the host's addresses");
        let port = server.local_addr().expect("an address").port();

        for address in ["198.51.100.1", "203.0.113.7", "203.0.113.8", "10.119.0.1", "169.254.77.1"] {
            let address = SocketAddr::new(address.parse().expect("an address"), port);
            assert!(refused(slot.sandbox_netns(), address), "{address} was reached");
        }
    });
}

#[test]
fn private_ranges_are_out_of_reach_although_routed() {
    on_host(async |host| {
        let internet = Internet::attach();
        let addresses = ["10.9.9.9", "100.64.9.9", "169.254.169.254", "172.16.9.9", "192.168.9.9"];
        for address in addresses {
            internet.add_address(&format!("{address}/32"));
        }
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let (_server, bound) = listen(&internet.netns(), "0.0.0.0:0");

        connect(
            slot.sandbox_netns(),
            SocketAddr::new(PUBLIC.parse().expect("an address"), bound.port()),
        )
        .expect("public");
        for address in addresses {
            let address = SocketAddr::new(address.parse().expect("an address"), bound.port());
            assert!(refused(slot.sandbox_netns(), address), "{address} was reached");
        }
    });
}

#[test]
fn slots_do_not_reach_each_other() {
    on_host(async |host| {
        let _internet = Internet::attach();
        let pool = host.pool().await;
        let (one, two) = (pool.take().await.expect("a slot"), pool.take().await.expect("a slot"));
        let (_server, bound) = listen(two.sandbox_netns(), "0.0.0.0:0");
        let (_router_server, router_bound) = listen(two.router_netns(), "0.0.0.0:0");

        for line in output("ip", "-o -4 addr show").lines().filter(|line| line.contains("/31")) {
            let address: std::net::Ipv4Addr = line
                .split_whitespace()
                .find_map(|word| word.strip_suffix("/31"))
                .expect("an address")
                .parse()
                .expect("an address");
            let far = std::net::Ipv4Addr::from(u32::from(address) + 1);
            for port in [bound.port(), router_bound.port()] {
                assert!(
                    refused(one.sandbox_netns(), SocketAddr::from((far, port))),
                    "{far}:{port} was reached"
                );
            }
        }
    });
}

#[test]
fn a_forged_source_address_gets_nowhere() {
    on_host(async |host| {
        let internet = Internet::attach();
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let receiver = inside(&internet.netns(), || UdpSocket::bind((PUBLIC, 0))).expect("a receiver");
        let to = receiver.local_addr().expect("an address");
        receiver
            .set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .expect("a socket");

        inside(slot.sandbox_netns(), || {
            run("ip", "addr add 203.0.113.99/32 dev eth0");
            let forged = UdpSocket::bind("203.0.113.99:0").expect("an address of the sandbox");
            let honest = UdpSocket::bind((SANDBOX_ADDRESS, 0)).expect("an address of the sandbox");
            // The first also finds the gateway's hardware address, for which a forged source would get no answer.
            honest.send_to(b"before", to).expect("sends");
            // May or may not be told at once that this is refused.
            let _ = forged.send_to(b"forged", to);
            honest.send_to(b"after", to).expect("sends");
        });
        let hear = || {
            let mut heard = [0; 16];
            let (length, _) = receiver.recv_from(&mut heard).expect("an honest packet");
            String::from_utf8_lossy(&heard[..length]).into_owned()
        };

        // They take the same way in order, so one that did not come between the others was lost.
        assert_eq!([hear(), hear()], ["before", "after"]);
    });
}
