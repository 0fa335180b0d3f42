//! Requests: bodies of some size, one connection for many, a member that restarts or hangs up.

use super::*;
use futures_util::future::join_all;

fn post(path: &str, body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    http::Request::post(path).body(Full::new(body.into())).expect("a request")
}

async fn body(response: http::Response<Incoming>) -> Bytes {
    response.into_body().collect().await.expect("a body").to_bytes()
}

#[tokio::test]
async fn a_request_and_its_response_carry_five_mebibytes() {
    let nodes = Site::new().cluster(2).await;
    let [one, two] = nodes.as_slice() else { panic!("two") };
    let large: Vec<u8> = (0..5_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
    let request = post("/forward?x=1", large.clone());
    let response = one.peers.request(two.id, request).await.expect("a response");
    assert_eq!(response.headers()["from"], "1");
    assert_eq!(response.headers()["path"], "/forward");
    assert!(body(response).await == large);
}

#[tokio::test]
async fn many_requests_at_once_share_one_connection() {
    let nodes = Site::new().cluster(2).await;
    let [one, two] = nodes.as_slice() else { panic!("two") };
    let asked = (0..200).map(|n: u32| async move {
        let request = post("/", n.to_be_bytes().to_vec());
        body(one.peers.request(two.id, request).await.expect("a response")).await
    });
    let answers = join_all(asked).await;
    assert!(answers.iter().map(Bytes::as_ref).eq((0..200_u32).map(u32::to_be_bytes)));
    let link = two.peers.0.links.load().get(&one.id).cloned().expect("a link");
    assert_eq!(link.seats_taken(), 2, "one stream, one for requests");
}

#[tokio::test]
async fn a_member_that_restarts_is_asked_on_a_new_connection() {
    let site = Site::new();
    let mut nodes = site.cluster(2).await;
    let known: Vec<PeerAddress> = nodes.iter().map(|node| node.seed.known()).collect();
    let (two, one) = (nodes.pop().expect("two"), nodes.pop().expect("one"));
    let id = two.id;
    one.peers.request(id, post("/", "a")).await.expect("a response");
    let peers = Arc::clone(&one.peers);
    let open = tokio::spawn(async move { peers.request(id, post("/never", "")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let seed = two.end().await;
    let lost = open.await.expect("no panic").expect_err("lost");
    assert!(matches!(lost, PeerError::Lost { node: 2, .. }) && !lost.is_unsent(), "{lost}");
    until("the outage", || !one.peers.is_connected(id)).await;
    let away = one.peers.request(id, post("/", "b")).await.expect_err("nobody there");
    assert!(matches!(away, PeerError::Dial { .. }) && away.is_unsent(), "{away}");
    let _two = Node::start(&site, seed, &known).await;
    let response = one.peers.request(id, post("/", "c")).await.expect("a response");
    assert_eq!(body(response).await, "c");
    let nobody = one.peers.request(3 << 16, post("/", "")).await.expect_err("no member");
    assert!(matches!(nobody, PeerError::NoMember(_)), "{nobody}");
}
