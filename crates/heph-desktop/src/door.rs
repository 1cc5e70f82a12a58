//! What the window itself asks of the engine, at the door that the page uses, too: whether this machine is cut off.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tauri::Url;

/// How long the engine may take: it may be opening a model.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of an answer that are read; how the policy stands takes a few hundred.
const ANSWER_MAX: u64 = 64 << 10;

/// How the policy stands, as far as the window shows it.
#[derive(Debug, Deserialize)]
struct Standing {
    cut: bool,
}

/// Whether this machine is cut off.
///
/// # Errors
/// When the engine does not answer, or does not say so.
pub(crate) fn is_cut(page: &Url) -> io::Result<bool> {
    read(&asked(page, "GET", "")?)
}

/// Cuts this machine off, or ends that; gives how it is then.
///
/// # Errors
/// When the engine does not answer, or refuses.
pub(crate) fn cut(page: &Url, off: bool) -> io::Result<bool> {
    read(&asked(page, "PUT", &json!({ "cut": off }).to_string())?)
}

fn asked(page: &Url, method: &str, body: &str) -> io::Result<String> {
    let addresses = page.socket_addrs(|| None)?;
    let address = addresses.first().filter(|address| address.ip().is_loopback());
    let address: &SocketAddr = address.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let mut stream = TcpStream::connect_timeout(address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request(page, method, address, body).as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// HTTP/1.0, so that the answer ends with its connection.
fn request(page: &Url, method: &str, address: &SocketAddr, body: &str) -> String {
    let token = page
        .fragment()
        .and_then(|fragment| fragment.strip_prefix("token="));
    let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let length = body.len();
    format!(
        "{method} /heph/v1/policy HTTP/1.0\r\nhost: {address}\r\n{token}content-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

fn read(answer: &str) -> io::Result<bool> {
    let unread = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the engine does not say how the policy stands",
        )
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(unread)?;
    let status = head.split(' ').nth(1).ok_or_else(unread)?;
    if status != "200" {
        return Err(io::Error::other(format!("the engine says {status}")));
    }
    let standing: Standing = serde_json::from_str(body).map_err(|_| unread())?;
    Ok(standing.cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_says_how_the_policy_stands() {
        for (answer, expected) in [
            (
                "HTTP/1.0 200 OK\r\na: b\r\n\r\n{\"cut\":true,\"preset\":\"open\"}",
                Some(true),
            ),
            ("HTTP/1.0 200 OK\r\n\r\n{\"cut\":false}", Some(false)),
            ("HTTP/1.0 401 Unauthorized\r\n\r\n{\"cut\":true}", None),
            ("HTTP/1.0 200 OK\r\n\r\n{\"cut\":tr", None),
            ("HTTP/1.0 200 OK\r\n\r\n{}", None),
            ("HTTP/1.0 200 OK\r\n", None),
            ("", None),
        ] {
            assert_eq!(read(answer).ok(), expected, "{answer}");
        }
    }

    #[test]
    fn the_token_goes_to_this_machine_alone() {
        let page = Url::parse("http://127.0.0.1:9/#token=secret").unwrap();
        let address = "127.0.0.1:9".parse().unwrap();
        let request = request(&page, "PUT", &address, "{\"cut\":true}");
        assert!(
            request.contains("\r\nauthorization: Bearer secret\r\n") && !request.contains('#'),
            "{request}"
        );
        assert!(
            request.ends_with("content-length: 12\r\n\r\n{\"cut\":true}"),
            "{request}"
        );
        let far = Url::parse("http://192.0.2.1:9/#token=secret").unwrap();
        assert_eq!(
            asked(&far, "GET", "").unwrap_err().kind(),
            io::ErrorKind::AddrNotAvailable
        );
    }
}
