//! Streams: order under load, an outage and its end, silence.

use super::*;
use crate::peer::wire::Purpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Frames that each member sends to each other one.
const FRAMES: u32 = 20_000;

/// A frame that says its number, with a length that depends on it.
fn numbered(n: u32) -> Vec<u8> {
    let length = match n % 1_000 {
        0 => 300_000,
        rest => 4 + usize::try_from(rest % 200).expect("small"),
    };
    let mut frame = vec![u8::try_from(n % 251).expect("small"); length];
    frame[..4].copy_from_slice(&n.to_be_bytes());
    frame
}

fn send_all(peers: &Peers, to: u64) {
    for n in 0..FRAMES {
        assert!(peers.send(to, 7, numbered(n)), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_exchange_frames_in_order_under_load() {
    let nodes = Site::new().cluster(3).await;
    let senders: Vec<_> = nodes
        .iter()
        .flat_map(|node| node.others().into_iter().map(|to| (Arc::clone(&node.peers), to)))
        // Plain threads: whoever sends needs no runtime.
        .map(|(peers, to)| std::thread::spawn(move || send_all(&peers, to)))
        .collect();
    let count = usize::try_from(FRAMES).expect("small");
    for node in &nodes {
        until("all frames", || node.inbox.count() == 2 * count).await;
        let frames = std::mem::take(&mut *node.inbox.frames.lock().expect("a lock"));
        for from in node.others() {
            let theirs = frames.iter().filter(|(id, ..)| *id == from);
            let expected = (0..FRAMES).map(|n| (7, Bytes::from(numbered(n))));
            assert!(theirs.map(|(_, kind, frame)| (*kind, frame.clone())).eq(expected));
            assert!(node.peers.heard(from).is_some());
            assert_eq!(node.peers.format(from), Some(FORMAT));
        }
    }
    for node in &nodes {
        let counters = node.peers.counters();
        let all = u64::from(FRAMES) * 2;
        // Counted after they are handed over.
        for counter in [&counters.frames_sent, &counters.frames_received] {
            until("the count", || counter.load(Ordering::Relaxed) == all).await;
        }
        assert_eq!(counters.frames_dropped.load(Ordering::Relaxed), 0);
        assert!(node.inbox.outages().is_empty());
    }
    senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
}

#[tokio::test]
async fn the_largest_frame_arrives_and_a_larger_one_is_not_sent() {
    let nodes = Site::new().cluster(2).await;
    let [one, two] = nodes.as_slice() else { panic!("two") };
    assert!(!one.peers.send(two.id, 1, vec![0; FRAME_BYTES_MAX + 1]));
    assert!(!one.peers.send(two.id, KEEPALIVE, Vec::new()));
    assert!(!one.peers.send(99 << 16 | 1, 1, Vec::new()));
    assert!(one.peers.send(two.id, 1, vec![5; FRAME_BYTES_MAX]));
    assert!(one.peers.send(two.id, 2, Vec::new()));
    until("two frames", || two.inbox.count() == 2).await;
    let frames = two.inbox.frames.lock().expect("a lock");
    assert!(frames[0].2.len() == FRAME_BYTES_MAX && frames[0].2.iter().all(|byte| *byte == 5));
    assert_eq!(frames[1], (one.id, 2, Bytes::new()));
}

#[tokio::test]
async fn a_member_that_restarts_is_told_once_and_found_again() {
    let site = Site::new();
    let mut nodes = site.cluster(2).await;
    let known: Vec<PeerAddress> = nodes.iter().map(|node| node.seed.known()).collect();
    let (two, one) = (nodes.pop().expect("two"), nodes.pop().expect("one"));
    one.peers.note_left(two.id);
    assert!(one.peers.has_left(two.id) && !one.peers.has_left(99 << 16 | 1));
    let (id, seed) = (two.id, two.end().await);
    until("the outage", || !one.peers.is_connected(id)).await;
    for _ in 0..100 {
        assert!(!one.peers.send(id, 1, vec![1]));
    }
    until("word of it", || !one.inbox.outages().is_empty()).await;
    let before = Instant::now();
    let two = Node::start(&site, seed, &known).await;
    until("the stream", || one.peers.is_connected(id)).await;
    assert_eq!(one.inbox.outages(), [id], "once for the whole outage");
    assert!(one.peers.send(id, 2, vec![2]));
    until("the frame", || two.inbox.count() == 1).await;
    until("a sign of life", || one.peers.heard(id).is_some_and(|at| at > before)).await;
    until("that it is back", || !one.peers.has_left(id)).await;
    let (id, _) = (two.id, two.end().await);
    until("the next outage", || one.inbox.outages() == [id, id]).await;
}

#[tokio::test]
async fn an_address_that_changed_is_dialled_and_the_former_one_still_tried() {
    let site = Site::new();
    let seeds = [site.seed(1, 1), site.seed(2, 1)];
    let mut known = seeds.each_ref().map(Seed::known);
    let [one, two] = seeds;
    known[1].address = "127.0.0.1:1".to_owned();
    let one = Node::start(&site, one, &known).await;
    until("word that it is not there", || one.inbox.outages() == [2 << 16 | 1]).await;
    let right = two.known();
    let two = Node::start(&site, two, &[]).await;
    two.know(vec![one.seed.known()]);
    one.know(vec![right.clone()]);
    until("the stream", || one.peers.is_connected(two.id)).await;
    // The address of the directory is wrong again: the stream stays, and comes back after an end.
    one.know(vec![known[1].clone()]);
    assert!(one.peers.is_connected(two.id));
    let (id, seed) = (two.id, two.end().await);
    until("the outage", || !one.peers.is_connected(id)).await;
    let _two = Node::start(&site, seed, &[one.seed.known()]).await;
    until("the stream again", || one.peers.is_connected(id)).await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_comes_is_closed() {
    let site = Site::new();
    let (one, two) = (site.seed(1, 1), site.seed(2, 1));
    let node = Node::start(&site, one, &[two.known()]).await;
    let mut silent =
        knock(&site, node.seed.address, Some((&two.certificate, &two.key))).await.expect("TLS");
    let greeting = wire::Greeting { purpose: Purpose::Stream, format: 9 };
    silent.write_all(&greeting.to_bytes()).await.expect("a greeting");
    let mut answer = [0; wire::Greeting::BYTES];
    silent.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(node.peers.format(two.identity.raft_id()), Some(9));
    let mut said = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "it is still open");
    assert!(said.chunks(wire::HEAD_BYTES).all(|chunk| chunk == wire::head(KEEPALIVE, 0)));
    assert!(!said.is_empty());
}
