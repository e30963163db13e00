//! Files of certificates that change under endpoints that run, and certificates that end meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::subscriber::set_default;
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::*;

/// Ends in three seconds, or up to one earlier: certificates know no less than a second.
#[expect(clippy::disallowed_methods, reason = "certificates end in real time")]
fn soon_over(request: Request) -> Request {
    Request { not_after: SystemTime::now() + Duration::from_secs(3), ..request }
}

/// What becomes of a dial.
#[derive(Debug, PartialEq, Eq)]
enum Dial {
    /// Who the registrar is to the element, and the element to the registrar.
    In { registrar: Vec<String>, element: Vec<String> },
    /// The registrar ends it.
    Refused,
    /// The element does.
    NotBelieved,
}

/// Dials once, with ASAP, and leaves nothing of it.
async fn dial(element: &mut Peer, registrar: &mut Peer) -> Dial {
    let dialled = element.dial(registrar.remote(Protocol::Asap));
    let theirs = match element.next().await {
        NetEvent::Up { assoc, peer: Some(peer), .. } if assoc == dialled => peer,
        event => {
            assert_eq!(event, NetEvent::Down { assoc: dialled, cause: DownCause::Aborted });
            return Dial::NotBelieved;
        }
    };
    let (accepted, ours) = tokio::select! {
        up = registrar.up() => up,
        down = element.down() => {
            assert_eq!(down, (dialled, DownCause::Aborted));
            return Dial::Refused;
        }
    };
    element.endpoint.execute(NetCommand::Abort { assoc: dialled });
    assert_eq!(element.down().await.0, dialled);
    assert_eq!(registrar.down().await.0, accepted);
    Dial::In { registrar: theirs.names().to_vec(), element: ours.names().to_vec() }
}

/// Files that have changed are used within a second (docs/security.md); a machine may be busy.
const NOTICED: Duration = Duration::from_secs(3);

/// Dials until this comes of it.
async fn dial_until(
    what: &str,
    element: &mut Peer,
    registrar: &mut Peer,
    expected: &Dial,
    within: Duration,
) {
    let begun = now();
    loop {
        let found = dial(element, registrar).await;
        if found == *expected {
            return;
        }
        assert!(begun.elapsed() < within, "{what}: {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A connection that is there while files change.
struct Standing {
    element: AssocId,
    registrar: AssocId,
}

impl Standing {
    async fn begin(element: &mut Peer, registrar: &mut Peer) -> Self {
        element.dial(registrar.remote(Protocol::Asap));
        Self { element: element.up().await.0, registrar: registrar.up().await.0 }
    }

    /// It carries messages, and nothing was reported of it.
    async fn stands(&self, element: &mut Peer, registrar: &mut Peer) {
        let (one, two) = (self.element, self.registrar);
        element.send(one, &asap(8));
        assert_eq!(registrar.next().await, NetEvent::Message { assoc: two, payload: asap(8) });
        registrar.send(two, &asap(12));
        assert_eq!(element.next().await, NetEvent::Message { assoc: one, payload: asap(12) });
    }
}

/// Counts how often an endpoint of this thread has found files that it cannot use. Tests that change files by halves
/// know from it that the half was seen.
#[derive(Clone, Debug, Default)]
struct Complaints(Arc<AtomicUsize>);

impl Complaints {
    async fn until(&self, count: usize) {
        let met = timeout(LIMIT, async {
            while self.0.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(met.await.is_ok(), "{self:?}, not {count}");
    }
}

impl Visit for Complaints {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" && format!("{value:?}").contains("going on with those before")
        {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Subscriber for Complaints {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Certificates change under a registrar and an element that run: new connections have the new ones, and the
/// connection that is there does not notice. While only half of a change is there, all goes on with what was before.
#[tokio::test]
async fn certificates_reload_without_ending_connections() {
    let complaints = Complaints::default();
    let _guard = set_default(complaints.clone());
    let pki = Pki::new(10);
    let registrars = pki.files(&ns1(10));
    let elements = pki.files(&Request::new("proxy-1", 1));
    let mut registrar = pki.registrar(1, registrars.clone()).await;
    let mut element = pki.element(2, elements.clone()).await;
    let standing = Standing::begin(&mut element, &mut registrar).await;
    let first = dial(&mut element, &mut registrar).await;
    let seen = |registrar: &str, element: &str| Dial::In {
        registrar: vec![registrar.to_owned()],
        element: vec![element.to_owned()],
    };
    assert_eq!(first, seen("ns1.example.org", "proxy-1"));

    // The certificate of one comes first, of the other the key.
    let renamed = Request { names: vec!["new-ns1.example.org".to_owned()], ..ns1(10) };
    let registrars_new = pki.authority.issue(&renamed).unwrap();
    let elements_new = pki.authority.issue(&Request::new("proxy-2", 1)).unwrap();
    std::fs::write(&registrars.certificate, &registrars_new.certificate).unwrap();
    std::fs::write(&elements.key, &elements_new.key).unwrap();
    complaints.until(2).await;
    assert_eq!(dial(&mut element, &mut registrar).await, first);
    standing.stands(&mut element, &mut registrar).await;

    std::fs::write(&registrars.key, &registrars_new.key).unwrap();
    std::fs::write(&elements.certificate, &elements_new.certificate).unwrap();
    let second = seen("new-ns1.example.org", "proxy-2");
    dial_until("the other half", &mut element, &mut registrar, &second, NOTICED).await;
    standing.stands(&mut element, &mut registrar).await;

    // The next change comes by halves as well, the other way round, and is noticed like the first.
    let registrars_new = pki.authority.issue(&ns1(10)).unwrap();
    let elements_new = pki.authority.issue(&Request::new("proxy-1", 1)).unwrap();
    std::fs::write(&registrars.key, &registrars_new.key).unwrap();
    std::fs::write(&elements.certificate, &elements_new.certificate).unwrap();
    complaints.until(4).await;
    assert_eq!(dial(&mut element, &mut registrar).await, second);
    std::fs::write(&registrars.certificate, &registrars_new.certificate).unwrap();
    std::fs::write(&elements.key, &elements_new.key).unwrap();
    dial_until("the other half again", &mut element, &mut registrar, &first, NOTICED).await;
    standing.stands(&mut element, &mut registrar).await;
}

/// A new authority: first it is trusted beside the old one, then everybody has certificates of it, then the old one is
/// taken out.
#[tokio::test]
async fn authorities_change_without_ending_connections() {
    let complaints = Complaints::default();
    let _guard = set_default(complaints.clone());
    let pki = Pki::new(16);
    let new = Authority::new(1).unwrap();
    let (old_pem, new_pem) = (pki.authority.certificate(), new.certificate());
    let both = [old_pem, new_pem].concat();
    let trust = |name: &str| {
        let path = pki.folder.join(name);
        std::fs::write(&path, old_pem).unwrap();
        path
    };
    let (registrars, olds, news) = (trust("registrar"), trust("old"), trust("new"));
    let config = TlsConfig { authority: registrars.clone(), ..pki.files(&ns1(16)) };
    let mut registrar = pki.registrar(1, config.clone()).await;
    let request = Request::new("proxy-1", 1);
    let mut old =
        pki.element(2, TlsConfig { authority: olds.clone(), ..pki.files(&request) }).await;
    let mut next = pki.element(3, files(&pki.folder, &new, &news, &request)).await;
    let standing = Standing::begin(&mut old, &mut registrar).await;
    let inside = Dial::In {
        registrar: vec!["ns1.example.org".to_owned()],
        element: vec!["proxy-1".to_owned()],
    };
    assert_eq!(dial(&mut old, &mut registrar).await, inside);
    assert_eq!(dial(&mut next, &mut registrar).await, Dial::Refused);

    // A file that is away for a moment, or no certificate, does not make strangers of anybody, nor friends.
    std::fs::remove_file(&registrars).unwrap();
    std::fs::write(&olds, "no certificate").unwrap();
    complaints.until(2).await;
    assert_eq!(dial(&mut old, &mut registrar).await, inside);
    assert_eq!(dial(&mut next, &mut registrar).await, Dial::Refused);

    std::fs::write(&registrars, &both).unwrap();
    dial_until("the registrar trusts both", &mut next, &mut registrar, &inside, NOTICED).await;
    std::fs::write(&olds, old_pem).unwrap();
    assert_eq!(dial(&mut old, &mut registrar).await, inside);

    // The registrar's certificate is of the new authority now: who does not trust that yet does not believe it.
    let issued = new.issue(&ns1(16)).unwrap();
    std::fs::write(&config.certificate, &issued.certificate).unwrap();
    std::fs::write(&config.key, &issued.key).unwrap();
    dial_until("a new certificate", &mut old, &mut registrar, &Dial::NotBelieved, NOTICED).await;
    std::fs::write(&olds, &both).unwrap();
    std::fs::write(&news, new_pem).unwrap();
    dial_until("the old element trusts both", &mut old, &mut registrar, &inside, NOTICED).await;
    dial_until("the new one trusts the new", &mut next, &mut registrar, &inside, NOTICED).await;

    std::fs::write(&registrars, new_pem).unwrap();
    dial_until("the old one is out", &mut old, &mut registrar, &Dial::Refused, NOTICED).await;
    assert_eq!(dial(&mut next, &mut registrar).await, inside);
    standing.stands(&mut old, &mut registrar).await;
}

/// What was right when a connection began stays so for that connection.
#[tokio::test]
async fn connections_outlive_their_certificates() {
    let pki = Pki::new(17);
    let outlive = async |hosts: [u8; 2], end: Dial| {
        let registrars = Request::registrar("ns1.example.org", ip(17, hosts[0]), 1);
        let elements = Request::new("proxy-1", 1);
        let (registrars, elements) = match end {
            Dial::Refused => (registrars, soon_over(elements)),
            _ => (soon_over(registrars), elements),
        };
        let mut registrar = pki.registrar(hosts[0], pki.files(&registrars)).await;
        let mut element = pki.element(hosts[1], pki.files(&elements)).await;
        let standing = Standing::begin(&mut element, &mut registrar).await;
        dial_until("its end", &mut element, &mut registrar, &end, LIMIT).await;
        standing.stands(&mut element, &mut registrar).await;
    };
    tokio::join!(outlive([1, 2], Dial::Refused), outlive([3, 4], Dial::NotBelieved));
}
