//! Homes: a phone behind a router with a NAT that lets in only answers.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Output,
    time::Duration,
};

use crate::netns::{Host, Network, SERVERS, missing, run};

/// A NAT and who is behind it.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) router: Host,
    /// Who is inside, by a private address that nobody else can reach.
    pub(crate) inside: Host,
}

impl Home {
    /// A router at `outside`, with the network of `address` behind it, where a host of this name lives. `None` if that
    /// cannot be had here.
    pub(crate) fn new(
        network: &Network,
        name: &str,
        outside: Ipv4Addr,
        address: Ipv4Addr,
    ) -> Option<Self> {
        let router = network.host(&format!("nat-{name}"), outside);
        let nat = &router.name;
        let [a, b, c, _] = address.octets();
        let gateway = Ipv4Addr::new(a, b, c, 1);
        run(&format!("ip netns add {name}"));
        run(&format!("ip link add inside netns {nat} type veth peer name eth0 netns {name}"));
        run(&format!("ip -n {nat} address add {gateway}/24 dev inside"));
        run(&format!("ip -n {nat} link set inside up"));
        run(&format!("ip -n {name} address add {address}/24 dev eth0"));
        run(&format!("ip -n {name} link set lo up"));
        run(&format!("ip -n {name} link set eth0 up"));
        run(&format!("ip -n {name} route add default via {gateway}"));
        let home = Self { router, inside: Host { name: name.to_owned(), address } };
        let rules = "table ip nat {
            chain out { type nat hook postrouting priority srcnat; oifname eth0 masquerade; }
            chain count { type filter hook prerouting priority filter; }
        }";
        match home.nft(rules) {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                missing("nftables", &format!("refuses: {why}"));
                return None;
            }
            Err(_) => {
                missing("nftables", "not installed");
                return None;
            }
        }
        let forwards = home.router.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"));
        if let Err(error) = forwards {
            missing("forwarding", &format!("cannot be switched on here: {error}"));
            return None;
        }
        Some(home)
    }

    fn nft(&self, commands: &str) -> std::io::Result<Output> {
        self.router.command("nft").arg(commands).output()
    }

    /// Counts what the router receives and this matches: `iifname inside` or `iifname eth0`, and more.
    pub(crate) fn count(&self, name: &str, what: &str) {
        let commands =
            format!("add counter ip nat {name}; add rule ip nat count {what} counter name {name}");
        let output = self.nft(&commands).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Packets that a counter has seen so far.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let output = self.nft(&format!("list counter ip nat {name}"));
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let rest = text.split_once("packets ").unwrap_or_else(|| panic!("{text}")).1;
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    /// Shows what this NAT does to who sends from inside: the same address for everybody, and no way in but for the ports
    /// that were spoken to. Returns the socket inside, a friend's at the servers, and where that friend sees it.
    pub(crate) fn assert_port_restricted(
        &self,
        abroad: &Host,
    ) -> (UdpSocket, UdpSocket, SocketAddr) {
        let socket = |at: Ipv4Addr| UdpSocket::bind((at, 0)).unwrap();
        let inside = self.inside.enter(|| socket(self.inside.address));
        let [friend, neighbour] = [socket(SERVERS), socket(SERVERS)];
        let [acquaintance, stranger] =
            abroad.enter(|| [socket(abroad.address), socket(abroad.address)]);
        let greet = |other: &UdpSocket| {
            inside.send_to(b"hello", other.local_addr().unwrap()).unwrap();
            receive(other).expect("the NAT lets nothing out").1
        };
        let mapped = greet(&friend);
        assert_eq!(mapped.ip(), self.router.address, "no address is translated");
        assert_eq!(greet(&acquaintance), mapped, "not the same for everybody");
        for sender in [&neighbour, &stranger] {
            sender.send_to(b"open?", mapped).unwrap();
        }
        for sender in [&friend, &acquaintance] {
            sender.send_to(b"answer", mapped).unwrap();
            let (_, from) = receive(&inside).expect("the NAT lets no answer in");
            assert_eq!(from, sender.local_addr().unwrap(), "the NAT lets anybody in");
        }
        assert!(receive(&inside).is_none(), "the NAT lets anybody in");
        (inside, friend, mapped)
    }
}

/// What comes within a second.
pub(crate) fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 100];
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}
