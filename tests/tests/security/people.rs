//! Everybody who may stand before the door: who they say they are, how they come, what they are.

use super::forms::Lines;
use serde_json::{Value, json};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tiebeam_core::schema::BUILT_IN_GROUPS;
use tiebeam_proto::time::Time;
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::door::Door;
use tiebeam_tests::tls::Certificate;
use tiebeam_tests::{Login, Options, TestNode, Wire, need};
use tiebeamd::ca::{self, Authority};
use tiebeamd::identity::Identity;
use tiebeamd::keys::{self, Keys};

/// An operating system user who is no user of the cluster: `nobody`.
const STRANGER: u32 = 65534;

/// What a person is to the cluster, which decides everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Shows nothing.
    NoLogin,
    /// Shows something that is not or no longer good.
    BadLogin,
    /// A process at the unix socket whose user is nobody here.
    Stranger,
    /// The user `root`.
    Root,
    /// In `exaadm`.
    Administrator,
    /// In `auditor`.
    Auditor,
    /// In `monitor`.
    Monitor,
    /// In no group with rights of its own.
    Plain,
}

impl Rank {
    pub(super) fn is_in(self) -> bool {
        !matches!(self, Rank::NoLogin | Rank::BadLogin | Rank::Stranger)
    }

    pub(super) fn sees_all(self) -> bool {
        matches!(self, Rank::Root | Rank::Administrator | Rank::Auditor)
    }

    pub(super) fn administers(self) -> bool {
        matches!(self, Rank::Root | Rank::Administrator)
    }
}

enum Way {
    Tls(Door),
    Unix(PathBuf),
    /// A process of another user that passes bytes on to the socket.
    Relay(SocketAddr),
}

/// One of them.
pub(super) struct Person {
    /// For the table.
    pub(super) title: &'static str,
    /// The user, if there is one.
    pub(super) user: &'static str,
    pub(super) rank: Rank,
    pub(super) login: Login,
    /// Failed logins are slowed per source: who fails comes from a new network each time.
    moves: bool,
    way: Way,
}

static NETWORK: AtomicU32 = AtomicU32::new(0);

/// An address of the loopback network in a /24 that was not used before.
pub(super) fn new_network() -> Ipv4Addr {
    let number = NETWORK.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 32 + ((number >> 8) & 0x3f) as u8, (number & 0xff) as u8, 9)
}

impl Person {
    /// A connection of this person.
    pub(super) fn connect(&self) -> io::Result<Wire> {
        match &self.way {
            Way::Tls(door) if self.moves => door.entered_from(new_network()).open(),
            Way::Tls(door) => door.open(),
            Way::Unix(socket) => Wire::unix(socket),
            Way::Relay(address) => Wire::plain(*address),
        }
    }

    /// What to make calls with: one set of connections, or for who moves a new one each time.
    pub(super) fn lines(&self) -> Lines<'_> {
        Lines::new(&self.login, || self.connect())
    }

    pub(super) fn moves(&self) -> bool {
        self.moves
    }
}

/// A node with everybody.
pub(super) struct Crowd {
    pub(super) node: TestNode,
    pub(super) people: Vec<Person>,
    _relay: Option<Relay>,
    /// Before which they stand, if it is not the node itself.
    _follower: Option<TestNode>,
}

/// The titles of the users of the default groups, in the order of [`BUILT_IN_GROUPS`].
const GROUPS: [(&str, &str, Rank); 8] = [
    ("root", "root", Rank::Root),
    ("exausers", "u_exausers", Rank::Plain),
    ("exaadm", "u_exaadm", Rank::Administrator),
    ("exadbadm", "u_exadbadm", Rank::Plain),
    ("exastoradm", "u_exastoradm", Rank::Plain),
    ("exabfsadm", "u_exabfsadm", Rank::Plain),
    ("monitor", "u_monitor", Rank::Monitor),
    ("auditor", "u_auditor", Rank::Auditor),
];

impl Crowd {
    /// Makes everybody, before the doors of this node.
    pub(super) fn gather(node: TestNode) -> Crowd {
        let (people, relay) = gather_before(&node, &node);
        Crowd { node, people, _relay: relay, _follower: None }
    }

    /// Makes everybody, before the doors of a member that is not the master and passes calls on.
    pub(super) fn gather_before_a_follower() -> Crowd {
        let options = Options::default().set("rpc.on_follower", "forward");
        let mut cluster = TestCluster::start(2, &options);
        let node = cluster.nodes.remove(cluster.master());
        let follower = cluster.nodes.pop().expect("two nodes");
        let (people, relay) = gather_before(&node, &follower);
        Crowd { node, people, _relay: relay, _follower: Some(follower) }
    }
}

/// Makes everybody on `node`, the master; they come to `front`.
fn gather_before(node: &TestNode, front: &TestNode) -> (Vec<Person>, Option<Relay>) {
    let door = Door::new(front.address, &front.ca_file, "http/1.1", None).expect("a door");
    let names: Vec<&str> = BUILT_IN_GROUPS.iter().map(|(name, _)| *name).collect();
    let titles: Vec<&str> = GROUPS.iter().map(|(title, _, _)| *title).collect();
    assert_eq!(titles, names, "each default group has its user here");

    let person = |title, user, rank, login| Person {
        title,
        user,
        rank,
        login,
        moves: false,
        way: Way::Tls(door.clone()),
    };
    let mut people = vec![person("none", "", Rank::NoLogin, Login::None)];
    let wrong = Login::basic("admin", "this-is-not-the-password");
    people.push(Person { moves: true, ..person("wrong", "", Rank::BadLogin, wrong) });
    people.extend(dead_logins(node).map(|(title, login)| Person {
        moves: title == "disabled",
        ..person(title, "", Rank::BadLogin, login)
    }));
    set_root_password(node);
    for (number, (title, user, rank)) in GROUPS.into_iter().enumerate() {
        let login = match user {
            "root" => Login::basic("root", &node.password),
            user => node.user(user, 2000 + number as u32, title),
        };
        people.push(person(title, user, rank, login));
    }
    let token = token(node, "u_exaadm", 3600);
    people.push(person("bearer", "u_exaadm", Rank::Administrator, Login::Bearer(token)));
    people.extend(holders(node, front, &door));
    let way = Way::Unix(front.socket());
    people.push(Person { way, ..person("unix:0", "root", Rank::Root, Login::None) });
    let relay = Relay::start(front);
    if let Some(relay) = &relay {
        let way = Way::Relay(relay.address);
        let stranger = person("unix:nobody", "", Rank::Stranger, Login::None);
        people.push(Person { way, ..stranger });
    }
    (people, relay)
}

fn set_root_password(node: &TestNode) {
    let mut wire = Wire::unix(&node.socket()).expect("the socket");
    let kwargs = json!({"params": {"username": "root", "password": node.password}});
    let result = wire.call(&Login::None, "job_exec", json!(["user_passwd", kwargs]));
    assert_eq!(result.expect("a job")["result_code"], 0);
}

/// A token of a user made by [`TestNode::user`].
pub(super) fn token(node: &TestNode, user: &str, ttl_s: u64) -> String {
    let params = json!([user, format!("{user}-has-a-password"), ttl_s]);
    let made = node.call(&Login::None, "user_login", params).expect("a token");
    made["token"].as_str().expect("a token is a text").to_owned()
}

/// Logins that were good once.
fn dead_logins(node: &TestNode) -> impl Iterator<Item = (&'static str, Login)> {
    node.user("u_former", 1900, "exaadm");
    let login = node.user("u_disabled", 1901, "exaadm");
    node.output("user_modify", json!({"username": "u_disabled", "login_enabled": false}));
    let expired = token(node, "u_former", 1);
    let ended = token(node, "u_former", 3600);
    let itself = Login::Bearer(ended.clone());
    assert_eq!(node.call(&itself, "user_logout", json!([ended])), Ok(json!(true)));
    std::thread::sleep(Duration::from_millis(1500));
    [("expired", Login::Bearer(expired)), ("revoked", itself), ("disabled", login)].into_iter()
}

/// Who comes with a certificate: a node, whom it logs in as nobody, and a user.
fn holders(node: &TestNode, front: &TestNode, door: &Door) -> Vec<Person> {
    let changes = json!({"ssl": {"cert_verify": "optional"}});
    node.output("general_settings", json!({"changes": changes}));
    let keys = Keys::load(&front.data).expect("the node's keys");
    let node_key = keys.node_key.expose().as_str();
    let node_chain =
        std::fs::read_to_string(front.data.join(keys::FOLDER).join(ca::NODE_CERTIFICATE))
            .expect("the node's certificate");
    let (user_chain, user_key) = user_certificate(node, "u_exausers");
    let person = |title, user, rank, chain: &str, key: &str| {
        let own = Some(Certificate { chain, key });
        let door = Door::new(door.address, &node.ca_file, "http/1.1", own).expect("a door");
        let way = Way::Tls(door);
        Person { title, user, rank, login: Login::None, moves: false, way }
    };
    let by_node = person("node cert", "", Rank::BadLogin, &node_chain, node_key);
    let by_user = person("user cert", "u_exausers", Rank::Plain, &user_chain, &user_key);
    wait_for_certificates(&by_user);
    vec![by_node, by_user]
}

/// A certificate of the cluster's authority for a user, and its key.
pub(super) fn user_certificate(node: &TestNode, user: &str) -> (String, String) {
    let keys = Keys::load(&node.data).expect("the node's keys");
    let authority = std::fs::read_to_string(&node.ca_file).expect("the authority");
    let authority = Authority::new(&authority, keys.ca_key.as_ref().expect("a voter has it"));
    let identity = Identity::read(&node.data).expect("the node's identity");
    let key = rcgen::KeyPair::generate().expect("a key");
    let (public, now) = (key.public_key_pem(), Time(now_us()));
    let issued =
        authority.expect("an authority").issue_user(&public, &identity.cluster_id, user, now);
    (issued.expect("a certificate"), key.serialize_pem())
}

pub(super) fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_micros()).expect("before 292000")
}

/// The node asks for certificates a moment after the setting has changed.
fn wait_for_certificates(holder: &Person) {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let mut wire = holder.connect().expect("a connection");
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_state"}).to_string();
        let reply = wire.request("POST", "/", &Login::None, &[], body.as_bytes());
        if reply.expect("an answer").status == 200 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("a user's certificate does not log in");
}

/// A process of [`STRANGER`] that passes bytes between a port and the socket.
struct Relay {
    address: SocketAddr,
    child: Child,
}

const RELAY: &str = "
import socket, sys, threading
def pass_on(a, b):
    try:
        while True:
            some = a.recv(65536)
            if not some: break
            b.sendall(some)
    except OSError: pass
    for end in (a, b):
        try: end.shutdown(socket.SHUT_RDWR)
        except OSError: pass
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('ready', flush=True)
while True:
    near, _ = listener.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(sys.argv[3])
    for ends in ((near, far), (far, near)):
        threading.Thread(target=pass_on, args=ends, daemon=True).start()
";

impl Relay {
    fn start(node: &TestNode) -> Option<Relay> {
        let group = "security: another user at the unix socket";
        // Only root can be somebody else; python can pass bytes on.
        let is_there = need(group, &["python3", "-c", "import os; assert os.getuid() == 0"]);
        if !is_there {
            return None;
        }
        let free = TcpListener::bind((node.address.ip(), 0)).expect("a port");
        let address = free.local_addr().expect("its address");
        drop(free);
        open_to_all(node.folder.as_path(), 0o711);
        open_to_all(&node.data, 0o711);
        open_to_all(&node.socket(), 0o666);
        let child = Command::new("python3")
            .args(["-c", RELAY, &address.ip().to_string(), &address.port().to_string()])
            .arg(node.socket())
            .current_dir("/")
            .uid(STRANGER)
            .gid(STRANGER)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut relay = Relay { address, child };
        let out = relay.child.stdout.take().expect("it is piped");
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(out), &mut line).expect("its first line");
        assert_eq!(line, "ready\n");
        Some(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
}

/// The parameters of [`Lines::ask`] for a job to its end.
pub(super) fn job(name: &str, kwargs: Value) -> Value {
    json!([name, kwargs])
}
