//! `dormouse ssh-key …`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::{SshKeyAction, SshKeyArgs};
use crate::client::Server;
use crate::config::Config;
use crate::output::print_table;

/// The files of `~/.ssh` that are looked for, in the order in which `ssh` prefers the keys.
const PUBLIC_KEYS: &[&str] = &[
    "id_ed25519.pub",
    "id_ed25519_sk.pub",
    "id_ecdsa.pub",
    "id_ecdsa_sk.pub",
    "id_rsa.pub",
];

/// What the server says of a key.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct SshKey {
    fingerprint: String,
    name: String,
    public_key: String,
    created_at: String,
}

pub(crate) async fn ssh_key(arguments: SshKeyArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.settings)?;
    let server = Server::of(&config)?.with_key(arguments.api_key);
    match arguments.action {
        SshKeyAction::Add { file, name } => {
            let key = read(file)?;
            let answer = server
                .ask(Method::POST, "/ssh-keys", Some(json!({ "publicKey": key, "name": name })))
                .await?;
            let key: SshKey = serde_json::from_slice(&answer).context("The server's answer is not what was expected")?;
            println!("{} registered", named(&key));
        }
        SshKeyAction::List { json } => list(&server, json).await?,
        SshKeyAction::Remove { keys } => remove(&server, &keys).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(server: &Server, json: bool) -> anyhow::Result<()> {
    let keys: Vec<SshKey> = server.ask_json(Method::GET, "/ssh-keys", None).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&keys)?);
        return Ok(());
    }
    let row = |key: SshKey| {
        let kind = key.public_key.split(' ').next().unwrap_or_default().to_owned();
        vec![key.fingerprint, kind, key.name, key.created_at]
    };
    let rows: Vec<_> = keys.into_iter().map(row).collect();
    print_table(&["FINGERPRINT", "KIND", "NAME", "REGISTERED"], &rows);
    Ok(())
}

async fn remove(server: &Server, wanted: &[String]) -> anyhow::Result<()> {
    let keys: Vec<SshKey> = server.ask_json(Method::GET, "/ssh-keys", None).await?;
    for wanted in wanted {
        let found: Vec<_> = keys
            .iter()
            .filter(|key| key.fingerprint == *wanted || key.name == *wanted)
            .collect();
        let [key] = found[..] else {
            if found.is_empty() {
                bail!("There is no SSH key {wanted}");
            }
            bail!("{} SSH keys are called {wanted}: name the fingerprint", found.len());
        };
        let path = format!("/ssh-keys/{}", utf8_percent_encode(&key.fingerprint, NON_ALPHANUMERIC));
        server.ask(Method::DELETE, &path, None).await?;
        println!("{} removed", named(key));
    }
    Ok(())
}

fn named(key: &SshKey) -> String {
    if key.name.is_empty() {
        key.fingerprint.clone()
    } else {
        format!("{} ({})", key.fingerprint, key.name)
    }
}

/// The text of the public key that is meant.
fn read(file: Option<PathBuf>) -> anyhow::Result<String> {
    let file = match file {
        Some(file) => file,
        None => first_of_home()?,
    };
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(&file).with_context(|| format!("Cannot read {}", file.display()))
}

fn first_of_home() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").context("No HOME: name the file of a public key")?;
    let directory = Path::new(&home).join(".ssh");
    let mut files = PUBLIC_KEYS.iter().map(|name| directory.join(name));
    let found = files.find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "No public key in {}: name the file, or make a key with ssh-keygen",
            directory.display()
        )
    })
}
