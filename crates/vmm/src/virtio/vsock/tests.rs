//! Tests of the socket device: a guest that speaks packets, and programs of the host on real Unix sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::connection::BUFFER_SIZE;
use super::packet::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;
use crate::virtio::testing::{Guest, Part};

const CID: u64 = 42;
const BUFFER: u32 = 4096;

/// A guest with a socket driver that is as simple as can be.
struct Setup {
    guest: Guest<Vsock>,
    dir: tempfile::TempDir,
}

fn device(dir: &Path, name: &str) -> Vsock {
    Vsock::bind(CID, dir.join(name)).unwrap()
}

fn setup() -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::running(device(dir.path(), "v"));
    let mut setup = Setup { guest, dir };
    setup.give_room(16);
    setup.guest.post(EVENT, &[Part::In(4)]);
    setup.guest.notify(EVENT);
    setup
}

fn packet(ports: Ports, operation: Operation) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: ports.guest,
        destination_port: ports.host,
        buffer_size: 64 * 1024,
        ..Header::to_guest(CID, ports, operation)
    }
}

impl Setup {
    fn give_room(&mut self, count: usize) {
        for _ in 0..count {
            self.guest.post(RECEIVE, &[Part::In(44), Part::In(BUFFER)]);
        }
        self.guest.notify(RECEIVE);
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let header = Header {
            length: data.len() as u32,
            ..header
        };
        let bytes = [&header.encode()[..], data].concat();
        self.guest.post(TRANSMIT, &[Part::Out(&bytes)]);
        self.guest.notify(TRANSMIT);
        assert!(self.guest.used(TRANSMIT).is_some(), "the device takes every packet");
    }

    /// The next packet for the guest, if there is one already.
    fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, written) = self.guest.used(RECEIVE)?;
        let header = Header::decode(self.guest.buffer(RECEIVE, head, HEADER)[..].try_into().unwrap());
        assert_eq!(written, HEADER as u32 + header.length);
        // The driver's buffers are made of two descriptors, one after the other.
        let data = self.guest.buffer(RECEIVE, head + 1, header.length as usize);
        self.give_room(1);
        Some((header, data))
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(packet) = self.try_receive() {
                return packet;
            }
            self.guest.wait_event();
        }
    }

    fn expect(&mut self, operation: Operation) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.operation, Some(operation));
        assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, CID));
        header
    }

    fn dial(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("v")).unwrap()
    }

    /// A connection of the host to `port` of the guest.
    fn host_connects(&mut self, port: u32) -> (Ports, BufReader<UnixStream>) {
        let mut stream = self.dial();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let ports = self.expect(Operation::Request).ports_of_host();
        assert_eq!(ports.guest, port);
        self.send(packet(ports, Operation::Response), b"");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", ports.host));
        (ports, stream)
    }

    /// A connection of the guest to a program of the host.
    fn guest_connects(&mut self, ports: Ports) -> UnixStream {
        let listener = UnixListener::bind(self.dir.path().join(format!("v_{}", ports.host))).unwrap();
        self.send(packet(ports, Operation::Request), b"");
        self.expect(Operation::Response);
        listener.accept().unwrap().0
    }

    fn metrics(&self) -> VsockMetrics {
        self.guest.device.lock().unwrap().device().metrics.clone()
    }

    fn restored(self) -> Self {
        let device = device(self.dir.path(), "restored");
        let mut guest = self.guest.restored_with(device).unwrap();
        guest.run();
        std::fs::rename(self.dir.path().join("restored"), self.dir.path().join("v")).unwrap();
        Self { guest, dir: self.dir }
    }

    /// What Linux does: end all connections, and put a new buffer into the event queue.
    fn acknowledge_reset(&mut self) {
        let (head, written) = self.guest.used(EVENT).expect("a transport reset");
        assert_eq!(written, 4);
        assert_eq!(self.guest.buffer(EVENT, head, 4), [0; 4]);
        self.guest.post(EVENT, &[Part::In(4)]);
        self.guest.notify(EVENT);
    }
}

impl Header {
    fn ports_of_host(&self) -> Ports {
        Ports {
            host: self.source_port,
            guest: self.destination_port,
        }
    }
}

const PORTS: Ports = Ports { host: 1024, guest: 5000 };

#[test]
fn the_context_id_is_told() {
    assert_eq!(u64::from_le_bytes(setup().guest.config(0)), CID);
}

#[test]
fn a_program_of_the_host_talks_to_the_guest() {
    let mut setup = setup();
    let (ports, mut stream) = setup.host_connects(80);
    stream.get_mut().write_all(b"question").unwrap();
    let (header, data) = setup.receive();
    assert_eq!((header.operation, data.as_slice()), (Some(Operation::Data), &b"question"[..]));
    setup.send(packet(ports, Operation::Data), b"answer");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn what_follows_the_greeting_is_data() {
    let mut setup = setup();
    let mut stream = setup.dial();
    stream.write_all(b"CONNECT 80\nearly").unwrap();
    let ports = setup.expect(Operation::Request).ports_of_host();
    setup.send(packet(ports, Operation::Response), b"");
    assert_eq!(setup.receive().1, b"early");
}

#[test]
fn a_greeting_may_come_in_pieces() {
    let mut setup = setup();
    let mut stream = setup.dial();
    for piece in ["CONN", "ECT", " 8", "0", "\n"] {
        setup.guest.run();
        assert!(setup.try_receive().is_none());
        stream.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(setup.expect(Operation::Request).destination_port, 80);
}

#[test]
fn greetings_that_make_no_sense_are_hung_up_on() {
    let mut setup = setup();
    for greeting in [
        "\n",
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT +1\n",
        "CONNECT 4294967296\n",
        "HELLO 1\n",
        &"x".repeat(40),
    ] {
        let mut stream = setup.dial();
        stream.write_all(greeting.as_bytes()).unwrap();
        setup.guest.run();
        assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0, "{greeting:?}");
        assert!(setup.try_receive().is_none());
    }
}

#[test]
fn a_connection_that_the_guest_refuses_is_closed() {
    let mut setup = setup();
    let mut stream = setup.dial();
    stream.write_all(b"CONNECT 80\n").unwrap();
    let ports = setup.expect(Operation::Request).ports_of_host();
    setup.send(packet(ports, Operation::Reset), b"");
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn a_program_of_the_guest_talks_to_the_host() {
    let mut setup = setup();
    let mut stream = setup.guest_connects(PORTS);
    setup.send(packet(PORTS, Operation::Data), b"question");
    let mut question = [0; 8];
    stream.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    stream.write_all(b"answer").unwrap();
    assert_eq!(setup.receive().1, b"answer");
}

#[test]
fn a_port_that_nobody_listens_on_is_refused() {
    let mut setup = setup();
    setup.send(packet(PORTS, Operation::Request), b"");
    setup.expect(Operation::Reset);
    assert_eq!(setup.metrics().refused, 1);
}

#[test]
fn packets_of_no_connection_are_answered_with_a_reset_and_resets_are_not() {
    let mut setup = setup();
    for operation in [
        Operation::Response,
        Operation::Data,
        Operation::Shutdown,
        Operation::CreditRequest,
    ] {
        setup.send(packet(PORTS, operation), b"");
        let header = setup.expect(Operation::Reset);
        assert_eq!((header.source_port, header.destination_port), (PORTS.host, PORTS.guest));
    }
    setup.send(packet(PORTS, Operation::Reset), b"");
    setup.guest.run();
    assert!(setup.try_receive().is_none());
}

#[test]
fn packets_for_others_and_of_other_types_are_refused() {
    let mut setup = setup();
    let request = packet(PORTS, Operation::Request);
    setup.send(
        Header {
            destination_cid: 3,
            ..request
        },
        b"",
    );
    setup.expect(Operation::Reset);
    setup.send(Header { kind: 2, ..request }, b"");
    setup.expect(Operation::Reset);
    // A sender that is not this guest gets no answer, since it could only go to the wrong one.
    setup.send(
        Header {
            source_cid: 7,
            ..request
        },
        b"",
    );
    setup.guest.run();
    assert!(setup.try_receive().is_none());
    assert_eq!(setup.metrics().malformed, 1);
}

#[test]
fn packets_that_are_shorter_than_they_say_are_dropped() {
    let mut setup = setup();
    let header = Header {
        length: 100,
        ..packet(PORTS, Operation::Data)
    };
    setup
        .guest
        .post(TRANSMIT, &[Part::Out(&header.encode()), Part::Out(&[0; 99])]);
    setup.guest.post(TRANSMIT, &[Part::Out(&header.encode()[..43])]);
    setup.guest.post(TRANSMIT, &[Part::In(100)]);
    setup.guest.notify(TRANSMIT);
    assert_eq!(setup.metrics().malformed, 3);
    assert!(setup.try_receive().is_none());
}

#[test]
fn the_end_of_what_the_host_sends_leaves_the_other_way_open() {
    let mut setup = setup();
    let (ports, mut stream) = setup.host_connects(80);
    stream.get_mut().write_all(b"all").unwrap();
    stream.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(setup.receive().1, b"all");
    assert_eq!(setup.expect(Operation::Shutdown).flags, SHUTDOWN_SEND);
    setup.send(packet(ports, Operation::Data), b"answer");
    let done = Header {
        flags: SHUTDOWN_SEND | SHUTDOWN_RECEIVE,
        ..packet(ports, Operation::Shutdown)
    };
    setup.send(done, b"");
    setup.expect(Operation::Reset);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

#[test]
fn the_end_of_what_the_guest_sends_leaves_the_other_way_open() {
    let mut setup = setup();
    let (ports, mut stream) = setup.host_connects(80);
    setup.send(
        Header {
            flags: SHUTDOWN_SEND,
            ..packet(ports, Operation::Shutdown)
        },
        b"",
    );
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    stream.get_mut().write_all(b"late").unwrap();
    assert_eq!(setup.receive().1, b"late");
}

#[test]
fn a_host_that_closes_is_told_to_the_guest_after_its_data() {
    let mut setup = setup();
    let (ports, stream) = setup.host_connects(80);
    stream.into_inner().write_all(b"last").unwrap();
    assert_eq!(setup.receive().1, b"last");
    assert_eq!(setup.expect(Operation::Shutdown).flags, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
    setup.send(packet(ports, Operation::Reset), b"");
    assert!(setup.guest.device.lock().unwrap().device().connections.is_empty());
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let mut setup = setup();
    let (ports, mut stream) = setup.host_connects(80);
    setup.send(
        Header {
            buffer_size: 10,
            ..packet(ports, Operation::CreditUpdate)
        },
        b"",
    );
    stream.get_mut().write_all(&[1; 25]).unwrap();
    assert_eq!(setup.receive().1.len(), 10);
    setup.expect(Operation::CreditRequest);
    setup.guest.run();
    assert!(setup.try_receive().is_none());
    setup.send(
        Header {
            buffer_size: 10,
            forwarded: 8,
            ..packet(ports, Operation::CreditUpdate)
        },
        b"",
    );
    assert_eq!(setup.receive().1.len(), 8);
    // A guest that claims to have passed on more than it got is believed to have no room.
    setup.send(
        Header {
            buffer_size: 10,
            forwarded: 1000,
            ..packet(ports, Operation::CreditUpdate)
        },
        b"",
    );
    setup.guest.run();
    let more: Vec<_> = std::iter::from_fn(|| setup.try_receive())
        .filter(|(_, data)| !data.is_empty())
        .collect();
    assert!(more.is_empty());
}

#[test]
fn the_guest_is_told_of_room_when_the_host_has_read() {
    let mut setup = setup();
    let mut stream = setup.guest_connects(PORTS);
    let mut sent = 0;
    let chunk = [3; 16 * 1024];
    // A socket of the host takes some, the device keeps some more.
    while sent + chunk.len() <= BUFFER_SIZE as usize {
        setup.send(packet(PORTS, Operation::Data), &chunk);
        sent += chunk.len();
    }
    let mut read = vec![0; sent];
    let reader = std::thread::spawn(move || {
        stream.read_exact(&mut read).unwrap();
        stream
    });
    let mut told = 0;
    while told != sent as u32 {
        let (update, _) = setup.receive();
        assert_eq!(update.operation, Some(Operation::CreditUpdate));
        assert!(update.forwarded >= told);
        told = update.forwarded;
        setup.send(packet(PORTS, Operation::CreditRequest), b"");
    }
    reader.join().unwrap();
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_cut_off() {
    let mut setup = setup();
    let _stream = setup.guest_connects(PORTS);
    let chunk = vec![0; 64 * 1024];
    let mut resets = 0;
    for _ in 0..40 {
        setup.send(packet(PORTS, Operation::Data), &chunk);
        resets +=
            usize::from(std::iter::from_fn(|| setup.try_receive()).any(|(header, _)| header.operation == Some(Operation::Reset)));
    }
    assert!(resets > 0);
    assert!(setup.guest.device.lock().unwrap().device().connections.is_empty());
}

/// Programs of the guest may use a port again as soon as they believe the connection to be over.
#[test]
fn a_request_with_the_ports_of_an_old_connection_replaces_it() {
    let mut setup = setup();
    let mut old = setup.guest_connects(PORTS);
    std::fs::remove_file(setup.dir.path().join("v_1024")).unwrap();
    let mut new = setup.guest_connects(PORTS);
    assert_eq!(old.read(&mut [0; 10]).unwrap(), 0);
    new.write_all(b"new").unwrap();
    assert_eq!(setup.receive().1, b"new");
}

#[test]
fn programs_that_connect_before_the_guest_runs_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(device(dir.path(), "v"));
    let mut stream = UnixStream::connect(dir.path().join("v")).unwrap();
    stream.write_all(b"CONNECT 80\n").unwrap();
    guest.run();
    guest.start(u64::MAX);
    let mut setup = Setup { guest, dir };
    setup.give_room(1);
    setup.expect(Operation::Request);
}

#[test]
fn a_driver_that_gives_no_room_is_not_listened_to_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::running(device(dir.path(), "v"));
    let packet = packet(PORTS, Operation::Data).encode();
    for _ in 0..MAX_RESETS + 10 {
        guest.post(TRANSMIT, &[Part::Out(&packet)]);
        guest.notify(TRANSMIT);
        guest.used(TRANSMIT);
    }
    assert_eq!(guest.device.lock().unwrap().device().resets.len(), MAX_RESETS);
    let mut setup = Setup { guest, dir };
    setup.give_room(20);
    setup.guest.run();
    assert!(setup.metrics().sent_packets > MAX_RESETS as u64);
}

#[test]
fn a_restored_guest_is_told_that_its_connections_are_over() {
    let mut setup = setup();
    let (ports, stream) = setup.host_connects(80);
    let mut setup = setup.restored();
    drop(stream);
    setup.acknowledge_reset();
    setup.send(packet(ports, Operation::Data), b"who?");
    setup.expect(Operation::Reset);
}

/// A connection that is announced before the guest has ended its old ones would be ended with them.
#[test]
fn nothing_is_received_before_the_reset_is_acknowledged() {
    let mut setup = setup().restored();
    let mut stream = setup.dial();
    stream.write_all(b"CONNECT 80\n").unwrap();
    setup.guest.run();
    assert!(setup.try_receive().is_none());
    setup.acknowledge_reset();
    setup.expect(Operation::Request);
}

/// A packet that was in the queue when the snapshot was taken is of a connection that is gone, without an answer; a
/// request is honoured, since the guest's program is still waiting.
#[test]
fn packets_in_flight_at_the_snapshot_are_taken_and_only_requests_matter() {
    let mut setup = setup();
    let (ports, _stream) = setup.host_connects(80);
    let listener = UnixListener::bind(setup.dir.path().join("restored_9")).unwrap();
    let request = Ports { host: 9, guest: 7 };
    for header in [packet(ports, Operation::Data), packet(request, Operation::Request)] {
        setup.guest.post(TRANSMIT, &[Part::Out(&header.encode())]);
    }
    let mut setup = setup.restored();
    assert!(setup.guest.used(TRANSMIT).is_some() && setup.guest.used(TRANSMIT).is_some());
    assert!(setup.try_receive().is_none());
    setup.acknowledge_reset();
    let response = setup.expect(Operation::Response);
    assert_eq!(response.ports_of_host(), request);
    let _accepted = listener.accept().unwrap();
    setup.guest.run();
    assert!(setup.try_receive().is_none());
}

/// The guest remembers the ports of connections that were open in the snapshot.
#[test]
fn ports_of_the_host_are_not_used_again_after_a_restore() {
    let mut setup = setup();
    let (before, _stream) = setup.host_connects(80);
    let mut setup = setup.restored();
    setup.acknowledge_reset();
    let (after, _stream) = setup.host_connects(80);
    assert_ne!(before.host, after.host);
}

#[test]
fn a_reset_without_event_buffers_waits_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::running(device(dir.path(), "v"));
    let mut setup = Setup { guest, dir }.restored();
    setup.guest.post(EVENT, &[Part::In(4)]);
    setup.guest.notify(EVENT);
    setup.acknowledge_reset();
    setup.give_room(1);
    setup.send(packet(PORTS, Operation::Data), b"");
    setup.expect(Operation::Reset);
}

/// Event buffers that were taken are put back for a save, and the machine that was saved goes on with its connections.
#[test]
fn a_save_leaves_the_connections_of_the_saved_machine_alone() {
    let mut setup = setup();
    let (ports, mut stream) = setup.host_connects(80);
    {
        let mut device = setup.guest.device.lock().unwrap();
        device.save().unwrap();
        device.resume();
    }
    setup.guest.run();
    setup.send(packet(ports, Operation::Data), b"on");
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"on");
}
