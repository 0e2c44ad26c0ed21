//! What is answered.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::TxtRecords;

/// How long answers may be kept, seconds. Short: a laptop's address changes.
const TTL: u32 = 60;
/// Proofs for an ACME server come and go.
const TXT_TTL: u32 = 1;

/// The base domains and what is below them.
#[derive(Debug)]
pub(crate) struct Zones {
    zones: Vec<Name>,
    txt: TxtRecords,
}

/// An answer without the envelope.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) records: Vec<Record>,
    /// For answers without records (RFC 2308).
    pub(crate) soa: Option<Record>,
}

impl Zones {
    pub(crate) fn new(zones: Vec<Name>, txt: TxtRecords) -> Self {
        Self { zones, txt }
    }

    /// Answers one question; `addresses` are those of this server.
    pub(crate) fn answer(&self, name: &Name, class: DNSClass, kind: RecordType, addresses: &[IpAddr]) -> Answer {
        let longest = |zone: &&Name| zone.num_labels();
        let zone = self.zones.iter().filter(|zone| zone.zone_of(name)).max_by_key(longest);
        let Some(zone) = zone.filter(|_| class == DNSClass::IN || class == DNSClass::ANY) else {
            return Answer {
                code: ResponseCode::Refused,
                ..Answer::default()
            };
        };
        let records = self.records(zone, name, kind, addresses);
        let soa = records.is_empty().then(|| soa(zone));
        Answer {
            code: ResponseCode::NoError,
            records,
            soa,
        }
    }

    fn records(&self, zone: &Name, name: &Name, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
        let address = |wanted: &dyn Fn(&IpAddr) -> bool| {
            let wanted = addresses.iter().filter(|address| wanted(address));
            wanted.map(|address| record(name, TTL, data(*address))).collect()
        };
        match kind {
            // Names with an underscore are no hosts (RFC 8552).
            RecordType::A | RecordType::AAAA | RecordType::ANY if is_attribute(name) => Vec::new(),
            RecordType::A => address(&IpAddr::is_ipv4),
            RecordType::AAAA => address(&IpAddr::is_ipv6),
            RecordType::ANY => address(&|_| true),
            RecordType::TXT => {
                let values = self.txt.get(&name.to_utf8()).into_iter();
                values
                    .map(|value| record(name, TXT_TTL, RData::TXT(TXT::new(vec![value]))))
                    .collect()
            }
            RecordType::SOA if name == zone => vec![soa(zone)],
            RecordType::NS if name == zone => vec![record(zone, TTL, RData::NS(NS(server(zone))))],
            _ => Vec::new(),
        }
    }
}

fn is_attribute(name: &Name) -> bool {
    name.iter().next().is_some_and(|label| label.starts_with(b"_"))
}

fn record(name: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name.clone(), ttl, data)
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// This server's own name: like every name below the zone, it leads here.
fn server(zone: &Name) -> Name {
    Name::from_ascii("ns")
        .and_then(|label| label.append_domain(zone))
        .unwrap_or_else(|_| zone.clone())
}

fn soa(zone: &Name) -> Record {
    let contact = Name::from_ascii("hostmaster").and_then(|label| label.append_domain(zone));
    let contact = contact.unwrap_or_else(|_| zone.clone());
    // Nobody transfers the zone, so serial and intervals mean nothing; the last number is how long an absence may be remembered.
    let soa = SOA::new(server(zone), contact, 1, 3600, 600, 86_400, 1);
    record(zone, TTL, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESSES: [&str; 2] = ["192.0.2.7", "2001:db8::7"];

    fn zones() -> (Zones, TxtRecords) {
        let txt = TxtRecords::default();
        let names = ["box.example.", "deep.box.example.", "localhost."];
        let names = names.into_iter().map(|name| Name::from_ascii(name).unwrap()).collect();
        (Zones::new(names, txt.clone()), txt)
    }

    fn ask(zones: &Zones, name: &str, kind: RecordType) -> Answer {
        let addresses: Vec<IpAddr> = ADDRESSES.iter().map(|address| address.parse().unwrap()).collect();
        zones.answer(&Name::from_ascii(name).unwrap(), DNSClass::IN, kind, &addresses)
    }

    fn shown(answer: &Answer) -> Vec<String> {
        answer.records.iter().map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn everything_below_a_domain_leads_here() {
        let (zones, _) = zones();
        for name in [
            "box.example.",
            "api.box.example.",
            "3000-I1abc.BOX.example.",
            "80-i1.localhost.",
            "a.b.box.example.",
        ] {
            assert_eq!(shown(&ask(&zones, name, RecordType::A)), ["192.0.2.7"], "{name}");
            assert_eq!(shown(&ask(&zones, name, RecordType::AAAA)), ["2001:db8::7"], "{name}");
        }
    }

    #[test]
    fn other_domains_are_refused() {
        let (zones, _) = zones();
        for name in ["example.", "xbox.example.", ".", "other.test."] {
            assert_eq!(ask(&zones, name, RecordType::A).code, ResponseCode::Refused, "{name}");
        }
        let name = Name::from_ascii("api.box.example.").unwrap();
        let chaos = zones.answer(&name, DNSClass::CH, RecordType::TXT, &[]);
        assert_eq!(chaos.code, ResponseCode::Refused);
    }

    #[test]
    fn what_is_not_there_is_said_to_be_absent_with_the_zones_soa() {
        let (zones, _) = zones();
        for kind in [RecordType::MX, RecordType::CAA, RecordType::HTTPS, RecordType::TXT] {
            let answer = ask(&zones, "x.deep.box.example.", kind);
            assert_eq!((answer.code, answer.records.len()), (ResponseCode::NoError, 0));
            assert_eq!(answer.soa.unwrap().name.to_string(), "deep.box.example.");
        }
        assert_eq!(shown(&ask(&zones, "box.example.", RecordType::NS)), ["ns.box.example."]);
        assert_eq!(ask(&zones, "box.example.", RecordType::SOA).records.len(), 1);
        assert!(ask(&zones, "_acme-challenge.box.example.", RecordType::A).records.is_empty());
    }

    #[test]
    fn proofs_come_and_go() {
        let (zones, txt) = zones();
        let name = "_acme-challenge.Box.example.";
        txt.add("_acme-challenge.box.example", "one");
        txt.add("_acme-challenge.box.example.", "two");
        assert_eq!(shown(&ask(&zones, name, RecordType::TXT)), ["one", "two"]);
        txt.remove("_acme-challenge.box.example", "one");
        assert_eq!(shown(&ask(&zones, name, RecordType::TXT)), ["two"]);
        txt.remove("_acme-challenge.box.example", "two");
        txt.remove("_acme-challenge.box.example", "two");
        assert!(ask(&zones, name, RecordType::TXT).records.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8), below in any::<bool>(), kind in any::<u16>(), class in any::<u16>()) {
            let (zones, txt) = zones();
            txt.add("x.box.example", "value");
            let Ok(mut name) = Name::from_labels(labels) else { return Ok(()) };
            if below {
                let Ok(longer) = name.append_domain(&Name::from_ascii("box.example.").unwrap()) else { return Ok(()) };
                name = longer;
            }
            let answer = zones.answer(&name, DNSClass::from(class), RecordType::from(kind), &["192.0.2.7".parse().unwrap()]);
            prop_assert_eq!(answer.records.is_empty(), answer.soa.is_some() || answer.code == ResponseCode::Refused);
        }
    }
}
