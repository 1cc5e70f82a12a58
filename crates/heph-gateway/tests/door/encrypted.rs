//! A door that speaks TLS, knocked at by those who do, who do not, and who would speak an older version.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::knocking::{Door, encrypted, refuses_to_speak_plainly};

/// The answer to a request, over TLS, by a caller who trusts that certificate alone.
fn ask(door: &Door, certificate: &str, name: &'static str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, door.connect());
    stream.write_all(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    assert_eq!(
        stream.conn.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    read.map(|_| answer)
}

/// What comes back for these bytes, until the door hangs up.
fn knock(door: &Door, bytes: &[u8]) -> Vec<u8> {
    let mut stream: TcpStream = door.connect();
    // A door that has heard enough may hang up before all is said.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// The first words of a client that knows TLS 1.2 and nothing later: no extension names a version.
fn hello_of_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; three suites of TLS 1.2 and one of 1.3, which a client of 1.2 may name by mistake; no compression.
    body.extend([0, 0, 8, 0xc0, 0x2b, 0xc0, 0x2f, 0x00, 0x9c, 0x13, 0x01, 1, 0]);
    // Groups and signatures, so that nothing but the version is wrong.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut hello = vec![22, 3, 1];
    hello.extend((body.len() as u16 + 4).to_be_bytes());
    hello.extend([1, 0]);
    hello.extend((body.len() as u16).to_be_bytes());
    hello.extend(body);
    hello
}

#[test]
fn who_knows_the_certificate_is_answered_over_tls() {
    let (door, certificate) = encrypted();
    let answer = ask(&door, &certificate, "localhost").unwrap();
    assert!(answer.contains(r#"{"status":"ok"}"#), "{answer}");
}

#[test]
fn another_doors_certificate_is_not_this_ones() {
    let (door, _) = encrypted();
    let (_other, certificate) = encrypted();
    assert!(ask(&door, &certificate, "localhost").is_err());
}

#[test]
fn nothing_below_tls_1_3_is_spoken() {
    let (door, certificate) = encrypted();
    // An alert, fatal, of the protocol's version.
    let answer = knock(&door, &hello_of_1_2());
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    assert_eq!(answer.get(5..7), Some(&[2, 70][..]), "{answer:?}");
    assert!(ask(&door, &certificate, "localhost").is_ok());
}

#[test]
fn who_speaks_plainly_is_told_what_is_spoken() {
    let (door, _) = encrypted();
    for said in [
        "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "x",
        "POST / HTTP/1.1\r\n\r\nbody",
    ] {
        let answer = String::from_utf8(knock(&door, said.as_bytes())).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.contains("TLS 1.3 alone: begin the address with https://"),
            "{answer}"
        );
    }
    // More than is taken ends the connection, not the door.
    knock(&door, &vec![b'x'; 1 << 20]);
    assert!(!knock(&door, b"GET / HTTP/1.0\r\n\r\n").is_empty());
}

#[test]
fn a_spoilt_handshake_harms_nobody_else() {
    let (door, certificate) = encrypted();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    let hello = hello_of_1_2();
    for _ in 0..200 {
        let mut spoilt = hello.clone();
        for _ in 0..=random(4) {
            let at = 1 + random(spoilt.len() - 1);
            spoilt[at] = random(256) as u8;
        }
        spoilt.truncate(1 + random(spoilt.len()));
        let answer = knock(&door, &spoilt);
        assert!(answer.len() < 64, "{answer:?} for {spoilt:?}");
    }
    assert!(ask(&door, &certificate, "localhost").is_ok());
}

#[test]
fn beyond_loopback_nobody_is_spoken_to_plainly() {
    assert!(refuses_to_speak_plainly("0.0.0.0:0"));
    assert!(refuses_to_speak_plainly("[::]:0"));
}
