//! `dormouse ca`: the authority's certificate on standard output, how to trust it on standard error.

use std::process::ExitCode;

use dormouse_tls::LocalCa;

use crate::cli::CaArgs;
use crate::config::Config;
use crate::data_dir::DataDir;

pub(crate) fn ca(arguments: CaArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.settings)?;
    let data = DataDir::open(&config.data_dir)?;
    let ca = LocalCa::open(&data.tls())?;
    print!("{}", ca.pem());
    let file = ca.file();
    let file = file.display();
    eprintln!(
        "
This is the certificate authority of this installation; its file is {file}.
Save it elsewhere with `dormouse ca > dormouse-ca.crt`.

Only for SDKs and programs in one shell:
  eval \"$(dormouse env --tls)\"        sets E2B_DOMAIN, NODE_EXTRA_CA_CERTS and SSL_CERT_FILE
  curl --cacert {file} https://…

For everything on a machine, browsers included (only if you trust this host to sign for any name):
  Debian, Ubuntu   cp dormouse-ca.crt /usr/local/share/ca-certificates/ && update-ca-certificates
  Fedora           cp dormouse-ca.crt /etc/pki/ca-trust/source/anchors/ && update-ca-trust
  macOS            security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain dormouse-ca.crt
  Windows          certutil -addstore -f ROOT dormouse-ca.crt
  Chromium         certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n Dormouse -i dormouse-ca.crt
  Firefox          Settings, Certificates, Authorities, Import"
    );
    Ok(ExitCode::SUCCESS)
}
