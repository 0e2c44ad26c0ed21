//! `dormouse env`: the variables that point E2B's SDKs and CLI here (contract 0).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use dormouse_tls::{Bundles, LocalCa};
use serde_json::json;

use crate::cli::EnvArgs;
use crate::client::Server;
use crate::config::Config;
use crate::data_dir::DataDir;

/// Variables that lead each part of a client to one address.
const URLS: [&str; 3] = ["E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL"];

pub(crate) fn env(arguments: &EnvArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.settings.clone())?;
    let data = DataDir::open(&config.data_dir)?;
    let key = data.key()?.with_context(|| {
        format!(
            "No API key in {} yet: `dormouse setup` or the first `dormouse serve` makes it",
            config.data_dir.display()
        )
    })?;
    let mut variables = vec![("E2B_API_KEY", key)];
    if arguments.tls {
        variables.extend(https(&config, &data)?);
    } else {
        let url = Server::url(&config, &data);
        variables.extend(URLS.map(|name| (name, url.clone())));
        variables.push(("E2B_DOMAIN", config.domains[0].to_string()));
    }
    if arguments.json {
        let object: serde_json::Map<_, _> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        if arguments.tls {
            // They would win over the domain.
            println!("unset {}", URLS.join(" "));
        }
        for (name, value) in variables {
            println!("export {name}={}", quoted(&value));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For HTTPS, where the domain says everything (contract 1.2). Trust that the caller's own variables gave is kept.
fn https(config: &Config, data: &DataDir) -> anyhow::Result<Vec<(&'static str, String)>> {
    const ADDING: &str = "NODE_EXTRA_CA_CERTS";
    const REPLACING: &str = "SSL_CERT_FILE";
    let port = Server::https_port(config, data)
        .context("HTTPS is not served: start the server with --domain or --tls-listen, such as `--tls-listen :8443`")?;
    let ca = LocalCa::open(&data.tls())?;
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let bundles = Bundles::write(&ca, named(REPLACING).as_deref(), named(ADDING).as_deref())?;
    Ok(vec![
        ("E2B_DOMAIN", config.client_domain(port)),
        (ADDING, bundles.adding.display().to_string()),
        (REPLACING, bundles.replacing.display().to_string()),
    ])
}

/// The value as a shell word.
fn quoted(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn odd_values_survive_the_shell() {
        assert_eq!(quoted("http://127.0.0.1:3000"), "http://127.0.0.1:3000");
        assert_eq!(quoted("a'b c"), r"'a'\''b c'");
        assert_eq!(quoted(""), "''");
    }
}
