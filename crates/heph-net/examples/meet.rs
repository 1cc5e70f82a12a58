//! One machine of a network lab: what this crate does on real sockets, told as lines of JSON.
//!
//! A script gives each machine a namespace and a home; see `tests/lab/links.py`. Nothing of it is part of the program.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that answers on its standard output"
)]

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heph_net::address::{NodeAddress, RelayAddress};
use heph_net::discovery::{Discovery, Sighting};
use heph_net::endpoint::{CONNECT_DEADLINE, Connection, Endpoint, EndpointOptions, Protocol, Stream};
use heph_net::identity::Identity;
use heph_net::relay::{Admission, Relay, RelayOptions};
use heph_net::roster::{Acquaintance, Circle, Life, Part, Roster, Standing};
use heph_types::NodeId;

/// How to call it.
const USAGE: &str = "meet id HOME                              this machine's id
meet relay HOME BIND HOST                 a relay; tells its address
meet wait HOME BIND RELAY|-               answers: sends back what it hears, sends what it is asked for
meet call HOME BIND RELAY|- NODE ADDRESS|- SECONDS   connects, says how, and draws bytes for so long
meet gather HOME BIND NODE=ADDRESS...     tells who comes, is suspected, and goes
meet look HOME BIND SECONDS               tells who is seen on the local network";

/// Bytes that are asked for at once.
const PIECE: usize = 1 << 20;

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["id", home] => tell(&format!("\"node\":\"{}\"", identity(home)?.node())),
        ["relay", home, bind, host] => relay(home, bind.parse()?, host).await?,
        ["wait", home, bind, relay] => wait(&endpoint(home, bind, relay, Discovery::Off).await?).await?,
        ["call", home, bind, relay, node, address, seconds] => {
            let endpoint = endpoint(home, bind, relay, Discovery::Off).await?;
            call(
                &endpoint,
                node.parse()?,
                &place(address, relay)?,
                seconds.parse()?,
            )
            .await?;
        }
        ["gather", home, bind, ref peers @ ..] => gather(home, bind, peers).await?,
        ["look", home, bind, seconds] => look(home, bind, Duration::from_secs(seconds.parse()?)).await?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// One line, with the time in milliseconds since 1970.
fn tell(what: &str) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    println!("{{\"at\":{},{what}}}", since.as_millis());
}

fn identity(home: &str) -> Result<Identity, Box<dyn Error>> {
    // A machine of the lab has no place in its owner's key store.
    Ok(Identity::keep_in_file(Path::new(home))?)
}

async fn endpoint(
    home: &str,
    bind: &str,
    relay: &str,
    discovery: Discovery,
) -> Result<Endpoint, Box<dyn Error>> {
    let options = EndpointOptions {
        bind: bind.parse()?,
        relay: (relay != "-").then(|| relay.parse()).transpose()?,
        discovery,
    };
    let endpoint = Endpoint::bind(&identity(home)?, options).await?;
    if !endpoint.waiting_at_relay(CONNECT_DEADLINE).await {
        return Err("the relay does not answer".into());
    }
    Ok(endpoint)
}

/// A socket, or nothing but the relay.
fn place(address: &str, relay: &str) -> Result<NodeAddress, Box<dyn Error>> {
    let relay: Option<RelayAddress> = (relay != "-").then(|| relay.parse()).transpose()?;
    let direct = match address {
        "-" => Vec::new(),
        socket => vec![socket.parse()?],
    };
    Ok(NodeAddress { direct, relay })
}

async fn relay(home: &str, bind: SocketAddr, host: &str) -> Outcome {
    let options = RelayOptions {
        bind,
        host: host.to_owned(),
        admission: Admission::Everyone,
        bytes_per_second_max: None,
    };
    let relay = Relay::start(Path::new(home), options).await?;
    tell(&format!("\"relay\":\"{}\"", relay.address()));
    std::future::pending().await
}

async fn wait(endpoint: &Endpoint) -> Outcome {
    tell(&format!("\"waiting\":\"{}\"", endpoint.node()));
    while let Some(arriving) = endpoint.accept().await {
        if let Ok(connection) = arriving.finish(CONNECT_DEADLINE).await {
            tokio::spawn(answer(connection));
        }
    }
    Ok(())
}

/// Sends as many bytes as each conversation begins by asking for.
async fn answer(connection: Connection) {
    while let Ok(mut stream) = connection.accept().await {
        let mut count = [0; 8];
        while stream.read(&mut count).await.is_ok() {
            let piece = vec![7; u64::from_le_bytes(count).min(PIECE as u64) as usize];
            if stream.write(&piece).await.is_err() {
                break;
            }
        }
    }
}

async fn call(endpoint: &Endpoint, node: NodeId, address: &NodeAddress, seconds: u64) -> Outcome {
    let began = Instant::now();
    let connected = endpoint
        .connect(node, address, Protocol::Session, CONNECT_DEADLINE)
        .await;
    let took = began.elapsed().as_secs_f64();
    let connection = match connected {
        Ok(connection) => connection,
        Err(refused) => {
            tell(&format!("\"refused\":\"{refused}\",\"after_s\":{took:.3}"));
            return Ok(());
        }
    };
    tell(&format!("\"connected_s\":{took:.3}"));
    let mut stream = connection.open().await?;
    for _ in 0..seconds {
        let (second, mut bytes) = (Instant::now(), 0_u64);
        while second.elapsed() < Duration::from_secs(1) {
            match draw(&mut stream).await {
                Ok(()) => bytes += PIECE as u64,
                Err(_) => {
                    let ended = connection.closed().await;
                    tell(&format!(
                        "\"ended\":\"{ended}\",\"silent_s\":{:.3}",
                        second.elapsed().as_secs_f64()
                    ));
                    return Ok(());
                }
            }
        }
        let way = connection.way();
        tell(&format!(
            "\"bytes\":{bytes},\"s\":{:.3},\"way\":\"{way:?}\"",
            second.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

async fn draw(stream: &mut Stream) -> Outcome {
    stream.write(&(PIECE as u64).to_le_bytes()).await?;
    let mut piece = vec![0; PIECE];
    Ok(stream.read(&mut piece).await?)
}

async fn gather(home: &str, bind: &str, peers: &[&str]) -> Outcome {
    let endpoint = endpoint(home, bind, "-", Discovery::Off).await?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let life = Life {
        incarnation: since.as_millis() as u64,
        seed: since.as_nanos() as u64,
    };
    let roster = Roster::start(endpoint.clone(), life, Part::Member);
    let mut known = Vec::new();
    for peer in peers {
        let (node, address) = peer.split_once('=').ok_or(USAGE)?;
        known.push(Acquaintance {
            node: node.parse()?,
            address: NodeAddress::at(address.parse()?),
            circle: Circle::Shared,
        });
    }
    roster.admit(known).await;
    let arriving = roster.clone();
    tokio::spawn(async move {
        while let Some(peer) = endpoint.accept().await {
            let roster = arriving.clone();
            tokio::spawn(async move {
                if let Ok(connection) = peer.finish(CONNECT_DEADLINE).await {
                    roster.arrived(connection).await;
                }
            });
        }
    });
    tell("\"gathering\":true");
    let mut shown = roster.watch();
    let mut before = Vec::new();
    while shown.changed().await.is_ok() {
        let now: Vec<(NodeId, Standing)> = shown
            .borrow_and_update()
            .iter()
            .map(|one| (one.node, one.standing))
            .collect();
        for (node, standing) in now.iter().filter(|one| !before.contains(*one)) {
            tell(&format!("\"node\":\"{node}\",\"is\":\"{standing:?}\""));
        }
        for (node, _) in before
            .iter()
            .filter(|(node, _)| !now.iter().any(|(other, _)| other == node))
        {
            tell(&format!("\"node\":\"{node}\",\"is\":\"Away\""));
        }
        before = now;
    }
    Ok(())
}

async fn look(home: &str, bind: &str, time: Duration) -> Outcome {
    let endpoint = endpoint(home, bind, "-", Discovery::Lan).await?;
    tell(&format!("\"looking\":\"{}\"", endpoint.node()));
    let mut sightings = endpoint.sightings().await.ok_or("discovery is off")?;
    let looking = async {
        while let Some(sighting) = sightings.next().await {
            if let Sighting::Seen { node, address } = sighting {
                tell(&format!(
                    "\"seen\":\"{node}\",\"at_addresses\":{}",
                    address.direct.len()
                ));
                // Found by its id alone.
                let connected = endpoint
                    .connect(node, &NodeAddress::default(), Protocol::Members, CONNECT_DEADLINE)
                    .await;
                tell(&format!("\"reached\":{}", connected.is_ok()));
            }
        }
    };
    let accepting = async {
        while let Some(arriving) = endpoint.accept().await {
            tokio::spawn(async move {
                if let Ok(connection) = arriving.finish(CONNECT_DEADLINE).await {
                    connection.closed().await;
                }
            });
        }
    };
    // Both go on until the time is over.
    let _ = tokio::time::timeout(time, async { tokio::join!(looking, accepting) }).await;
    Ok(())
}
