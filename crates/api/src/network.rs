//! The network settings of a new sandbox (contract 2.3, 4.10): checked for shape, then for whether this server can keep them.
//!
//! What would make a sandbox more open than its owner asked for is refused, never dropped. Enforced today: internet on or off
//! (`allow_internet_access`, or `denyOut` with all traffic), `allowPublicTraffic`, `maskRequestHost`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use dormouse_store::NetworkConfig;
use http::uri::Authority;
use ipnet::IpNet;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::ApiError;

/// What the SDKs call `ALL_TRAFFIC`.
const ALL_TRAFFIC: &str = "0.0.0.0/0";

const MAX_RULE_DOMAINS: usize = 10;
const MAX_RULE_HEADERS: usize = 20;
const MAX_HEADER_NAME: usize = 64;
const MAX_HEADER_VALUE: usize = 2048;
const MAX_DOMAIN: usize = 128;
const MAX_HTTPS_PORTS: usize = 128;
const MAX_DNS_SERVERS: usize = 10;

/// `SandboxNetworkConfig` as it comes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = SandboxNetworkConfig)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkBody {
    allow_public_traffic: Option<bool>,
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    egress_proxy: Option<EgressProxy>,
    mask_request_host: Option<String>,
    rules: Option<BTreeMap<String, Vec<Rule>>>,
    https_ports: Option<Vec<u32>>,
    dns_servers: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct EgressProxy {
    #[serde(rename = "address")]
    _address: String,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Rule {
    transform: Option<Transform>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Transform {
    headers: Option<BTreeMap<String, String>>,
}

impl NetworkBody {
    /// Whether services inside can be reached without a token.
    pub(crate) fn is_public(&self) -> bool {
        self.allow_public_traffic != Some(false)
    }

    /// The settings to keep.
    ///
    /// # Errors
    /// 400 for what is not valid, 501 for what is but cannot be enforced yet.
    pub(crate) fn accept(self, allow_internet: Option<bool>) -> Result<NetworkConfig, ApiError> {
        let deny_out = self.deny_out.map(denied).transpose()?;
        let allowed = self.allow_out.as_deref().unwrap_or_default();
        let denies = deny_out.as_deref().unwrap_or_default();
        let all_denied = denies.iter().any(|cidr| cidr == ALL_TRAFFIC);
        check_allowed(allowed, all_denied)?;
        if let Some(mask) = &self.mask_request_host {
            check_mask(mask)?;
        }
        check_rules(self.rules.as_ref())?;
        check_https_ports(self.https_ports.as_deref())?;
        check_dns_servers(self.dns_servers.as_deref())?;

        let off = all_denied || allow_internet == Some(false);
        if off && !allowed.is_empty() {
            return Err(ApiError::not_implemented("network.allowOut with all other traffic denied"));
        }
        if !off && !denies.is_empty() {
            return Err(ApiError::not_implemented(
                "network.denyOut of anything but all traffic (0.0.0.0/0)",
            ));
        }
        if self.egress_proxy.is_some() {
            return Err(ApiError::not_implemented("network.egressProxy"));
        }
        if self.rules.is_some_and(|rules| !rules.is_empty()) {
            return Err(ApiError::not_implemented("network.rules"));
        }
        if self.https_ports.is_some_and(|ports| !ports.is_empty()) {
            return Err(ApiError::not_implemented("network.httpsPorts"));
        }
        Ok(NetworkConfig {
            allow_public_traffic: self.allow_public_traffic,
            allow_out: self.allow_out,
            deny_out,
            mask_request_host: self.mask_request_host,
            dns_servers: self.dns_servers,
        })
    }
}

fn cidr(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Addresses and networks. All traffic is written in one way, so that nobody has to parse it again to see it.
fn denied(entries: Vec<String>) -> Result<Vec<String>, ApiError> {
    entries
        .into_iter()
        .map(|entry| match cidr(&entry) {
            Some(IpNet::V4(net)) if net.prefix_len() == 0 => Ok(ALL_TRAFFIC.to_owned()),
            Some(_) => Ok(entry),
            None => Err(ApiError::bad_request(format!("invalid denied CIDR {entry}"))),
        })
        .collect()
}

fn check_allowed(entries: &[String], all_denied: bool) -> Result<(), ApiError> {
    for entry in entries.iter().filter(|entry| cidr(entry).is_none()) {
        if !is_domain(entry.strip_prefix("*.").unwrap_or(entry)) {
            return Err(ApiError::bad_request(format!("invalid allowed entry {entry}")));
        }
        if !all_denied {
            return Err(ApiError::bad_request(
                "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all other traffic.",
            ));
        }
    }
    Ok(())
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= MAX_DOMAIN && text.trim_end_matches('.').split('.').all(label)
}

/// A `Host` header, with `${PORT}` anywhere in it.
fn check_mask(mask: &str) -> Result<(), ApiError> {
    let host = mask.replace("${PORT}", "8080");
    let valid = match host.parse::<Authority>() {
        Ok(authority) => {
            // The library takes any text after the colon.
            let port = authority.as_str().rsplit_once(':').map(|(_, port)| port);
            let port_valid = authority.as_str().ends_with(']') || port.is_none_or(|port| port.parse::<u16>().is_ok());
            let host = authority.host();
            let name_valid = is_domain(host) || host.parse::<IpAddr>().is_ok() || host.starts_with('[');
            !host.is_empty() && name_valid && port_valid && !authority.as_str().contains('@')
        }
        Err(_) => false,
    };
    if valid {
        Ok(())
    } else {
        Err(ApiError::invalid(
            "network.maskRequestHost",
            format_args!("`{mask}` is not a host name with an optional port"),
        ))
    }
}

fn check_rules(rules: Option<&BTreeMap<String, Vec<Rule>>>) -> Result<(), ApiError> {
    let Some(rules) = rules else { return Ok(()) };
    let invalid = |what: String| Err(ApiError::invalid("network.rules", what));
    if rules.len() > MAX_RULE_DOMAINS {
        return invalid(format!("more than {MAX_RULE_DOMAINS} domains"));
    }
    for (domain, rules) in rules {
        if !is_domain(domain.strip_prefix("*.").unwrap_or(domain)) {
            return invalid(format!("`{domain}` is not a domain"));
        }
        let transforms: Vec<_> = rules.iter().filter_map(|rule| rule.transform.as_ref()).collect();
        if transforms.len() > 1 {
            return invalid(format!("more than one transform for `{domain}`"));
        }
        for headers in transforms.iter().filter_map(|transform| transform.headers.as_ref()) {
            let too_long = |(name, value): (&String, &String)| name.len() > MAX_HEADER_NAME || value.len() > MAX_HEADER_VALUE;
            if headers.len() > MAX_RULE_HEADERS || headers.iter().any(too_long) {
                return invalid(format!(
                    "the headers for `{domain}` exceed {MAX_RULE_HEADERS}, or a name {MAX_HEADER_NAME} or a value {MAX_HEADER_VALUE} bytes"
                ));
            }
        }
    }
    Ok(())
}

fn check_https_ports(ports: Option<&[u32]>) -> Result<(), ApiError> {
    let Some(ports) = ports else { return Ok(()) };
    let invalid = |what: String| Err(ApiError::invalid("network.httpsPorts", what));
    if ports.len() > MAX_HTTPS_PORTS {
        return invalid(format!("more than {MAX_HTTPS_PORTS} ports"));
    }
    for (index, &port) in ports.iter().enumerate() {
        if !(1..=65535).contains(&port) || port == u32::from(dormouse_agent_proto::AGENT_PORT) {
            return invalid(format!("{port} is not allowed"));
        }
        if ports.iter().take(index).any(|&earlier| earlier == port) {
            return invalid(format!("{port} is there twice"));
        }
    }
    Ok(())
}

fn check_dns_servers(servers: Option<&[String]>) -> Result<(), ApiError> {
    let Some(servers) = servers else { return Ok(()) };
    if servers.len() > MAX_DNS_SERVERS {
        return Err(ApiError::invalid(
            "network.dnsServers",
            format_args!("more than {MAX_DNS_SERVERS} servers"),
        ));
    }
    match servers.iter().find(|server| server.parse::<Ipv4Addr>().is_err()) {
        None => Ok(()),
        Some(server) => Err(ApiError::invalid(
            "network.dnsServers",
            format_args!("`{server}` is not an IPv4 address"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use serde_json::{Value, json};

    use super::*;

    fn accept(body: Value, internet: Option<bool>) -> Result<Value, u16> {
        let body: NetworkBody = serde_json::from_value(body).expect("well-formed");
        body.accept(internet)
            .map(|config| serde_json::to_value(config).expect("plain data"))
            .map_err(|error| error.into_response().status().as_u16())
    }

    #[track_caller]
    fn kept(body: Value) {
        let answer = accept(body.clone(), None);
        assert_eq!(answer, Ok(body));
    }

    #[track_caller]
    fn refused(body: Value, status: u16) {
        let text = body.to_string();
        assert_eq!(accept(body, None), Err(status), "{text}");
    }

    #[test]
    fn what_is_enforced_is_kept_as_it_came() {
        kept(json!({}));
        kept(json!({"denyOut": ["0.0.0.0/0"]}));
        kept(json!({"denyOut": ["0.0.0.0/0", "1.2.3.4"], "allowOut": []}));
        kept(json!({"allowPublicTraffic": false, "maskRequestHost": "localhost:${PORT}"}));
        // Allowed anyway.
        kept(json!({"allowOut": ["1.1.1.1", "8.8.8.0/24"]}));
        kept(json!({"dnsServers": ["9.9.9.9"]}));
        assert_eq!(
            accept(json!({"denyOut": ["1.2.3.4"]}), Some(false)),
            Ok(json!({"denyOut": ["1.2.3.4"]}))
        );
    }

    #[test]
    fn all_traffic_is_recognised_however_it_is_written() {
        assert_eq!(
            accept(json!({"denyOut": ["1.2.3.4/0"]}), None),
            Ok(json!({"denyOut": ["0.0.0.0/0"]}))
        );
    }

    #[test]
    fn what_is_not_enforced_yet_is_refused() {
        refused(json!({"denyOut": ["1.2.3.4"]}), 501);
        refused(json!({"denyOut": ["::/0"]}), 501);
        refused(json!({"denyOut": ["0.0.0.0/0"], "allowOut": ["example.com"]}), 501);
        assert_eq!(accept(json!({"allowOut": ["1.1.1.1"]}), Some(false)), Err(501));
        refused(json!({"egressProxy": {"address": "proxy.example.com:1080"}}), 501);
        refused(
            json!({"rules": {"*.example.com": [{"transform": {"headers": {"a": "b"}}}]}}),
            501,
        );
        refused(json!({"httpsPorts": [8443]}), 501);
    }

    #[test]
    fn what_is_not_valid_is_400() {
        refused(json!({"denyOut": ["example.com"]}), 400);
        refused(json!({"denyOut": ["1.2.3.4/33"]}), 400);
        refused(json!({"allowOut": ["example.com"]}), 400);
        refused(json!({"allowOut": ["exa mple.com"], "denyOut": ["0.0.0.0/0"]}), 400);
        refused(json!({"allowOut": ["*"], "denyOut": ["0.0.0.0/0"]}), 400);
        refused(json!({"rules": {"a.com": [{"transform": {}}, {"transform": {}}]}}), 400);
        refused(json!({"rules": {"*": []}}), 400);
        refused(json!({"httpsPorts": [0]}), 400);
        refused(json!({"httpsPorts": [49983]}), 400);
        refused(json!({"httpsPorts": [1, 1]}), 400);
        refused(json!({"dnsServers": ["::1"]}), 400);
        for mask in [
            "", " ", "a b", "http://x", "x/y", "user@x", "x:99999", "x:", "x:y", "${HOST}", "-x",
        ] {
            refused(json!({"maskRequestHost": mask}), 400);
        }
    }

    #[test]
    fn masks_of_every_kind_are_valid() {
        for mask in [
            "localhost",
            "a-b.example.com:8080",
            "${PORT}.example.com",
            "127.0.0.1:${PORT}",
            "[::1]:80",
            "[::1]",
        ] {
            kept(json!({"maskRequestHost": mask}));
        }
    }
}
