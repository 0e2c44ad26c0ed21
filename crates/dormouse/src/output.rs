//! What people see: the log, errors as one chain with a hint, and tables.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts the log on standard error; `DORMOUSE_LOG` chooses what it shows.
pub(crate) fn init_log() {
    let filter = EnvFilter::try_from_env("DORMOUSE_LOG").unwrap_or_else(|_| EnvFilter::new("info,hickory_server=warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call would find the first one's log.
    let _ = log.try_init();
}

/// Prints an error with all its causes in one line, and a hint where one of them has one.
pub(crate) fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
    if let Some(hint) = error.chain().find_map(hint) {
        eprintln!("hint: {hint}");
    }
}

fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<dormouse_templates::Error>() {
        return error.hint();
    }
    let io = cause.downcast_ref::<std::io::Error>()?;
    match io.kind() {
        std::io::ErrorKind::PermissionDenied => Some("run the same command with sudo".to_owned()),
        std::io::ErrorKind::AddrInUse => Some("another program has this port: choose one with --listen".to_owned()),
        std::io::ErrorKind::ConnectionRefused => Some("is the server running? `dormouse serve` starts it".to_owned()),
        _ => None,
    }
}

/// Prints rows under a header, columns as wide as their widest cell.
pub(crate) fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain(header.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    println!("{}", line(&header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        println!("{}", line(row));
    }
}
