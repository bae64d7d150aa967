//! `jdbc:postgresql://host:port/database?parameters`.

use std::str::FromStr;

use super::{SslMode, Tls};

/// What a connection URL says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JdbcUrl {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) current_schema: String,
    pub(super) tls: Tls,
}

const FORM: &str = "must have the form jdbc:postgresql://host:port/database?sslmode=…";

impl FromStr for JdbcUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("jdbc:postgresql://").ok_or(FORM)?;
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = place.split_once('/').ok_or(FORM)?;
        if authority.contains('@') {
            return Err(
                "holds a user or password; use connection.username and connection.password"
                    .to_owned(),
            );
        }
        if authority.contains(',') {
            return Err("names more than one host, which is not supported".to_owned());
        }
        let (host, port) = split_authority(authority)?;
        if host.is_empty() || database.is_empty() {
            return Err(FORM.to_owned());
        }
        let mut url = Self {
            host: host.to_owned(),
            port,
            database: decode(database)?,
            current_schema: "public".to_owned(),
            tls: Tls::default(),
        };
        for parameter in parameters.split('&').filter(|part| !part.is_empty()) {
            url.set(parameter)?;
        }
        Ok(url)
    }
}

impl JdbcUrl {
    fn set(&mut self, parameter: &str) -> Result<(), String> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = decode(value)?;
        match name {
            "sslmode" => self.tls.mode = ssl_mode(&value)?,
            // pgjdbc: `ssl=true` alone means verify-full.
            "ssl" if value.is_empty() || value == "true" => self.tls.mode = SslMode::VerifyFull,
            "ssl" => {}
            "sslrootcert" => self.tls.root_cert = Some(value.into()),
            "sslcert" => self.tls.cert = Some(value.into()),
            "sslkey" => self.tls.key = Some(value.into()),
            "currentSchema" => self.current_schema = value,
            "user" | "password" | "sslpassword" => {
                return Err(format!(
                    "holds {name}; use connection.username and connection.password"
                ));
            }
            // These tune the driver or name the client.
            "ApplicationName"
            | "connectTimeout"
            | "socketTimeout"
            | "loginTimeout"
            | "tcpKeepAlive"
            | "reWriteBatchedInserts"
            | "stringtype"
            | "prepareThreshold"
            | "defaultRowFetchSize"
            | "assumeMinServerVersion"
            | "binaryTransfer" => {}
            other => return Err(format!("has a parameter that is not supported: {other}")),
        }
        Ok(())
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, String> {
    let found = SslMode::CHOICES.iter().find(|(word, _)| *word == value);
    found.map(|(_, mode)| *mode).ok_or_else(|| {
        format!(
            "has sslmode={value}; it must be disable, prefer, require, verify-ca or verify-full"
        )
    })
}

fn split_authority(authority: &str) -> Result<(&str, u16), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(FORM)?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None | Some("") => 5432,
        Some(port) => port
            .parse()
            .map_err(|_| format!("has the port \"{port}\", which is no port"))?,
    };
    Ok((host, port))
}

/// Replaces `%XX`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|digit| digit.map(char::from));
        let value = match digits {
            [Some(high), Some(low)] => high.to_digit(16).zip(low.to_digit(16)),
            _ => None,
        };
        let (high, low) = value.ok_or("has a % that is not followed by two hex digits")?;
        bytes.push(u8::try_from(high << 4 | low).expect("two hex digits fit a byte"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}
