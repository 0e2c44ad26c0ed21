//! `dormouse env`: the variables that point E2B's SDKs and CLI here (contract 0).

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use crate::cli::EnvArgs;
use crate::client::Server;
use crate::config::Config;
use crate::data_dir::DataDir;

pub(crate) fn env(arguments: &EnvArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.settings.clone())?;
    let data = DataDir::open(&config.data_dir)?;
    let key = data.key()?.with_context(|| {
        format!(
            "No API key in {} yet: `dormouse setup` or the first `dormouse serve` makes it",
            config.data_dir.display()
        )
    })?;
    let url = Server::url(&config, &data);
    let variables = [
        ("E2B_API_KEY", key),
        ("E2B_API_URL", url.clone()),
        ("E2B_SANDBOX_URL", url.clone()),
        ("E2B_VOLUME_API_URL", url),
        ("E2B_DOMAIN", config.base_domain().to_owned()),
    ];
    if arguments.json {
        let object: serde_json::Map<_, _> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        for (name, value) in variables {
            println!("export {name}={}", quoted(&value));
        }
    }
    Ok(ExitCode::SUCCESS)
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
