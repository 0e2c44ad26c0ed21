//! Properties of the socket device for any packets.

use proptest::prelude::*;

use super::packet::HEADER;
use super::*;
use crate::virtio::testing::{Guest, Part, STATUS_RUNNING};

proptest! {
    #[test]
    fn a_header_survives_being_written_and_read(bytes in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform12(any::<u8>())) {
        let mut all = [0; HEADER];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&rest);
        let header = Header::decode(&all);
        prop_assert_eq!(Header::decode(&header.encode()), header);
    }

    /// Whatever a guest sends, on few enough ports that packets meet, the device goes on and keeps within its limits.
    #[test]
    fn a_device_survives_any_packets(packets in prop::collection::vec(
        (0u16..9, 0u32..3, 0u32..3, 0u32..4, prop_oneof![0u32..100, any::<u32>()], any::<u32>(), 0usize..200, any::<bool>()), 1..80)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("v_1")).unwrap();
        let mut guest = Guest::running(Vsock::bind(3, dir.path().join("v")).unwrap());
        let mut free = 50;
        for (operation, host, port, flags, size, forwarded, length, room) in packets {
            let header = Header {
                source_cid: 3,
                destination_cid: HOST_CID,
                source_port: port,
                destination_port: host,
                length: length as u32,
                kind: TYPE_STREAM,
                operation: None,
                flags,
                buffer_size: size,
                forwarded,
            };
            let mut bytes = header.encode().to_vec();
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            bytes.resize(HEADER + length, 1);
            guest.post(TRANSMIT, &[Part::Out(&bytes)]);
            if room && free > 0 {
                free -= 1;
                guest.post(RECEIVE, &[Part::In(1000)]);
            }
            guest.notify(TRANSMIT);
            prop_assert!(guest.used(TRANSMIT).is_some());
            while guest.used(RECEIVE).is_some() {
                free += 1;
            }
        }
        prop_assert_eq!(guest.status(), STATUS_RUNNING);
        let device = guest.device.lock().unwrap();
        let device = device.device();
        prop_assert!(device.connections.len() <= 3 && device.turns.len() <= device.connections.len());
        prop_assert_eq!(device.connections.len(), device.tokens.len());
    }
}
