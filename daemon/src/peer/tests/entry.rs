//! Who comes in and who does not: foreign, former and unknown members, users, nobody, old dates.

use super::*;
use crate::peer::link::is_same_key;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The first bytes of a stream of this version.
const STREAM: &[u8] = b"R\x01\x00\x01";

/// Whether a connection with this certificate gets its greeting answered.
async fn comes_in(
    site: &Site,
    address: SocketAddr,
    with: Option<(&str, &Secret<String>)>,
    greeting: &[u8],
) -> bool {
    let Ok(mut stream) = knock(site, address, with).await else { return false };
    if stream.write_all(greeting).await.is_err() {
        return false;
    }
    let mut answer = [0; wire::Greeting::BYTES];
    stream.read_exact(&mut answer).await.is_ok()
}

#[tokio::test]
async fn only_a_member_with_its_own_key_comes_in() {
    let site = Site::new();
    let (one, two) = (site.seed(1, 1), site.seed(2, 3));
    let node = Node::start(&site, one, &[two.known()]).await;
    let foreign = Identity { cluster_id: "c2".to_owned(), ..two.identity.clone() };
    let former = Identity { incarnation: 2, ..two.identity.clone() };
    let unknown = Identity { node_id: 3, ..two.identity.clone() };
    let itself = node.seed.identity.clone();
    let strange = Pki::new();
    let public = public_key(&two.key).expect("a public key");
    let user = site.0.authority().issue_user(&public, CLUSTER, "admin", now()).expect("a user's");
    let of = |identity: &Identity, key| site.issue(identity, key, now());
    let other_ca = Site(strange).issue(&two.identity, &two.key, now());
    let other_key = Pki::new().node_key;
    let table = [
        ("another cluster", of(&foreign, &two.key), &two.key),
        ("a former incarnation", of(&former, &two.key), &two.key),
        ("a node that is no member", of(&unknown, &two.key), &two.key),
        ("itself", of(&itself, &two.key), &two.key),
        ("another key", of(&two.identity, &other_key), &other_key),
        ("a user", user, &two.key),
        ("another CA", other_ca, &two.key),
    ];
    for (at, (who, certificate, key)) in table.iter().enumerate() {
        let with = Some((certificate.as_str(), *key));
        assert!(!comes_in(&site, node.seed.address, with, STREAM).await, "{who}");
        until(who, || node.refused() == u64::try_from(at + 1).expect("small")).await;
    }
    assert!(!comes_in(&site, node.seed.address, None, STREAM).await, "no certificate");
    until("no certificate", || node.refused() == 8).await;
    let member = Some((two.certificate.as_str(), &two.key));
    assert!(comes_in(&site, node.seed.address, member, STREAM).await);
    assert!(!comes_in(&site, node.seed.address, member, b"R\x02\x00\x01").await, "version 2");
    assert!(!comes_in(&site, node.seed.address, member, b"Z\x01\x00\x01").await, "no such kind");
    until("another version", || node.refused() == 10).await;
    assert_eq!((node.inbox.count(), node.peers.format(two.identity.raft_id())), (0, Some(1)));
}

#[tokio::test]
async fn a_dialer_speaks_only_to_the_member_that_it_meant() {
    let site = Site::new();
    let (one, two, three) = (site.seed(1, 1), site.seed(2, 1), site.seed(3, 1));
    let mut wrong = three.known();
    wrong.address = two.address.to_string();
    let known = [one.known(), two.known(), three.known()];
    let _two = Node::start(&site, two, &known).await;
    let one = Node::start(&site, one, &[known[1].clone(), wrong]).await;
    until("word of it", || one.inbox.outages().contains(&(3 << 16 | 1))).await;
    let request = http::Request::get("/").body(Full::default()).expect("a request");
    let error = one.peers.request(3 << 16 | 1, request).await.expect_err("another node");
    let text = crate::report::chain(&error);
    assert!(text.contains("node 2 answers where node 3 was dialled"), "{text}");
    assert!(!one.peers.is_connected(3 << 16 | 1));
}

#[tokio::test]
async fn a_removed_member_loses_its_connections_and_does_not_come_back() {
    let nodes = Site::new().cluster(3).await;
    let [one, two, three] = nodes.as_slice() else { panic!("three") };
    let ask = |path| http::Request::get(path).body(Full::default()).expect("a request");
    let peers = Arc::clone(&two.peers);
    let (to, request) = (one.id, ask("/never"));
    let open = tokio::spawn(async move { peers.request(to, request).await });
    until("the request's connection", || {
        one.peers.0.links.load().get(&two.id).is_some_and(|link| link.seats_taken() == 2)
    })
    .await;
    let link = one.peers.0.links.load().get(&two.id).cloned().expect("a link");
    one.know(vec![three.seed.known()]);
    assert!(open.await.expect("no panic").is_err(), "its open request");
    until("their end", || link.seats_taken() == 0).await;
    until("word of it", || two.inbox.outages().contains(&one.id)).await;
    assert!(!one.peers.send(two.id, 1, vec![1]));
    let before = one.refused();
    until("it tries again", || one.refused() > before).await;
    let error = two.peers.request(one.id, ask("/")).await.expect_err("refused");
    assert!(matches!(error, PeerError::Dial { .. }), "{error}");
    // The one that stays was not touched.
    assert!(one.inbox.outages().is_empty() && one.peers.is_connected(three.id));
    // It joins again with the next incarnation: the old certificate is of no use.
    let again = Identity { incarnation: 2, ..two.seed.identity.clone() };
    let next = PeerAddress { raft_id: again.raft_id(), ..two.seed.known() };
    one.know(vec![three.seed.known(), next]);
    let before = one.refused();
    until("the old one tries again", || one.refused() > before).await;
    assert!(!two.peers.is_connected(one.id));
}

#[tokio::test]
async fn dates_that_are_over_are_reported_until_the_renewal_and_refuse_nobody() {
    let site = Site::new();
    let (one, mut two) = (site.seed(1, 1), site.seed(2, 1));
    let fresh = two.certificate.clone();
    two.certificate = site.issue(&two.identity, &two.key, Time(now().0 - 3 * YEAR_MICROS));
    let known = [one.known(), two.known()];
    let two = Node::start(&site, two, &known).await;
    let one = Node::start(&site, one, &known).await;
    until("both streams", || one.peers.is_connected(two.id) && two.peers.is_connected(one.id))
        .await;
    let wrong = || one.peers.counters().dates_wrong.load(Ordering::Relaxed);
    assert_eq!(wrong(), 2, "seen in both directions");
    assert_eq!(two.peers.counters().dates_wrong.load(Ordering::Relaxed), 0);
    two.tls.replace(&fresh, &two.seed.key, &site.0.ca).expect("a renewal");
    assert!(two.tls.replace(&fresh, &one.seed.key, &site.0.ca).is_err(), "another key");
    let request = http::Request::get("/").body(Full::default()).expect("a request");
    one.peers.request(two.id, request).await.expect("a new connection");
    assert_eq!(wrong(), 2, "the new one is used");
}

#[test]
fn key_hashes_are_compared_with_and_without_their_name() {
    assert!(is_same_key("sha256:ab12", "AB12"));
    assert!(!is_same_key("sha256:ab12", "ab13"));
}

#[tokio::test]
async fn what_another_address_says_takes_no_denial_back() {
    let nodes = Site::new().cluster(2).await;
    let [one, two] = nodes.as_slice() else { panic!("two") };
    let link = two.peers.0.links.load().get(&one.id).cloned().expect("a link");
    // An address of before, where nobody is any more.
    link.address_worked("127.0.0.1:1");
    one.know(Vec::new());
    until("word of it", || two.peers.deniers() == [1]).await;
    let again = dial::connect(&two.peers.0, &link, wire::Purpose::Requests).await;
    assert!(again.is_err() && two.peers.deniers() == [1]);
}
