//! Endpoints on this machine's loopback: real sockets, no other host, short deadlines.

mod connecting;
mod conversations;
#[cfg(target_os = "linux")]
mod guarded;
mod pairing;
mod relays;
mod shards;

use std::time::Duration;

use heph_net::endpoint::{Connection, Endpoint, EndpointOptions, Protocol};
use heph_net::identity::Identity;

/// What a healthy loopback never needs, and a hanging test ends by.
const PATIENCE: Duration = Duration::from_secs(10);

async fn endpoint() -> Endpoint {
    endpoint_with(EndpointOptions::loopback()).await
}

async fn endpoint_with(options: EndpointOptions) -> Endpoint {
    Endpoint::bind(&Identity::fresh().unwrap(), options)
        .await
        .unwrap()
}

/// `from` connects to `to`; both ends.
async fn connected(from: &Endpoint, to: &Endpoint, protocol: Protocol) -> (Connection, Connection) {
    let address = to.address();
    let (there, here) = tokio::join!(from.connect(to.node(), &address, protocol, PATIENCE), async {
        to.accept().await.unwrap().finish(PATIENCE).await
    });
    (there.unwrap(), here.unwrap())
}

/// One message there and back on a conversation of `from`'s.
async fn echoes(from: &Connection, to: &Connection) {
    let (there, back) = tokio::join!(
        async {
            let mut stream = from.open().await.unwrap();
            stream.write(b"are you there?").await.unwrap();
            stream.finish();
            stream.read_all(64).await.unwrap()
        },
        async {
            let mut stream = to.accept().await.unwrap();
            let heard = stream.read_all(64).await.unwrap();
            stream.write(&heard).await.unwrap();
            stream.finish();
            heard
        }
    );
    assert_eq!(there, b"are you there?");
    assert_eq!(there, back);
}
