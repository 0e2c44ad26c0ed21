//! The responder over real sockets: real questions, and nonsense.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use dormouse_dns::{Config, Responder};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

async fn responder(addresses: &[&str]) -> Responder {
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        domains: vec!["box.example".to_owned()],
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    Responder::start(config).await.unwrap()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask(server: SocketAddr, question: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(question, server).await.unwrap();
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut buffer)).await;
    let length = received.expect("an answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn names_lead_to_the_configured_addresses() {
    let responder = responder(&["192.0.2.7"]).await;
    let answer = ask(responder.address(), &question("3000-i1.box.example.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["192.0.2.7"]);
    assert!(answer.metadata.authoritative);
}

#[tokio::test]
async fn without_configured_addresses_it_is_the_one_that_the_client_reaches() {
    let responder = responder(&[]).await;
    let answer = ask(responder.address(), &question("api.box.example.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["127.0.0.1"]);
    let answer = ask(responder.address(), &question("api.box.example.", RecordType::AAAA)).await;
    assert_eq!((addresses(&answer).len(), answer.authorities.len()), (0, 1));
}

#[tokio::test]
async fn it_answers_over_tcp() {
    let responder = responder(&["192.0.2.7"]).await;
    let question = question("api.box.example.", RecordType::A);
    let mut stream = TcpStream::connect(responder.address()).await.unwrap();
    stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
    stream.write_all(&question).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(addresses(&Message::from_vec(&answer).unwrap()), ["192.0.2.7"]);
}

#[tokio::test]
async fn txt_records_are_answered_from_the_moment_they_are_added() {
    let responder = responder(&[]).await;
    let question = question("_acme-challenge.box.example.", RecordType::TXT);
    assert!(ask(responder.address(), &question).await.answers.is_empty());
    responder.txt().add("_acme-challenge.box.example", "proof");
    assert_eq!(addresses(&ask(responder.address(), &question).await), ["proof"]);
}

#[tokio::test]
async fn other_domains_and_other_operations_are_refused() {
    let responder = responder(&[]).await;
    let answer = ask(responder.address(), &question("example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let mut update = question("box.example.", RecordType::SOA);
    // Operation 5, update.
    update[2] |= 5 << 3;
    let answer = ask(responder.address(), &update).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn it_answers_on_after_nonsense(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20), cut in 0usize..40) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let responder = responder(&["192.0.2.7"]).await;
            let good = question("api.box.example.", RecordType::A);
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            for packet in &packets {
                socket.send_to(packet, responder.address()).await.unwrap();
                // A good head with nonsense behind it gets further.
                let mixed = [&good[..cut.min(good.len())], packet].concat();
                socket.send_to(&mixed, responder.address()).await.unwrap();
            }
            let answer = ask(responder.address(), &good).await;
            assert_eq!(addresses(&answer), ["192.0.2.7"]);
        });
    }
}
