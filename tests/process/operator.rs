//! Somebody with full access to ZooKeeper, who does there what nobody should.

use bequest_harness::ZooKeeperServer;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Error, Permission};

const AUTH: &[u8] = b"operator:secret";

/// A client of ZooKeeper beside the nodes. Paths begin at the group, with `//` at the cluster, with `///` at the root.
pub(crate) struct Operator {
    client: Client,
    cluster: String,
    group: String,
}

impl Operator {
    /// Connects to a server; the group is the one called `kv` of the cluster at `chroot`.
    pub(crate) async fn connect(server: &ZooKeeperServer, chroot: &str) -> Self {
        let connector = Client::connector().with_auth("digest", AUTH);
        let client = connector.connect(&server.address().to_string()).await.expect("ZooKeeper serves");
        Self { client, cluster: chroot.to_owned(), group: format!("{chroot}/groups/kv") }
    }

    fn path(&self, path: &str) -> String {
        if let Some(path) = path.strip_prefix("///") {
            return format!("/{path}");
        }
        match path.strip_prefix("//") {
            Some("") => self.cluster.clone(),
            Some(path) => format!("{}/{path}", self.cluster),
            None => format!("{}{path}", self.group),
        }
    }

    /// The content of a znode.
    pub(crate) async fn get(&self, path: &str) -> Vec<u8> {
        self.client.get_data(&self.path(path)).await.unwrap_or_else(|error| panic!("{path}: {error}")).0
    }

    /// How often a znode was changed.
    pub(crate) async fn version(&self, path: &str) -> i32 {
        self.client.get_data(&self.path(path)).await.unwrap_or_else(|error| panic!("{path}: {error}")).1.version
    }

    /// Whether a znode is there.
    pub(crate) async fn exists(&self, path: &str) -> bool {
        self.client.check_stat(&self.path(path)).await.unwrap_or_else(|error| panic!("{path}: {error}")).is_some()
    }

    /// Overwrites a znode.
    pub(crate) async fn set(&self, path: &str, data: &[u8]) {
        self.client.set_data(&self.path(path), data, None).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Creates a znode that anybody may use.
    pub(crate) async fn create(&self, path: &str, data: &[u8]) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let created = self.client.create(&self.path(path), data, &options).await;
        created.map(drop).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// The sorted full paths of a znode's children, as other methods take them.
    pub(crate) async fn children(&self, path: &str) -> Vec<String> {
        let found = self.client.list_children(&self.path(path)).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut paths: Vec<String> = found.into_iter().map(|name| format!("{path}/{name}")).collect();
        paths.sort();
        paths
    }

    /// Deletes a znode and everything below it.
    pub(crate) async fn delete(&self, path: &str) {
        Box::pin(self.delete_children(path)).await;
        match self.client.delete(&self.path(path), None).await {
            // An ephemeral one went by itself.
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => panic!("{path}: {error}"),
        }
    }

    async fn delete_children(&self, path: &str) {
        let found = match self.client.list_children(&self.path(path)).await {
            Ok(found) => found,
            Err(Error::NoNode) => return,
            Err(error) => panic!("{path}: {error}"),
        };
        for name in found {
            let child = format!("{path}/{name}");
            Box::pin(self.delete(&child)).await;
        }
    }

    /// Keeps everybody else from using a znode.
    pub(crate) async fn deny(&self, path: &str) {
        let only_me = [Acl::new(Permission::ALL, AuthId::authed())];
        self.client.set_acl(&self.path(path), &only_me, None).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Lets everybody use a znode again.
    pub(crate) async fn allow(&self, path: &str) {
        let anybody = [Acl::new(Permission::ALL, AuthId::anyone())];
        self.client.set_acl(&self.path(path), &anybody, None).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// The segments and marks of all WALs, oldest first.
    pub(crate) async fn segments(&self) -> Vec<String> {
        let mut segments = Vec::new();
        for wal in self.children("/wal").await {
            for bucket in self.children(&wal).await {
                segments.extend(self.children(&bucket).await);
            }
        }
        segments
    }
}

/// A copy of a record with one bit of its middle turned.
pub(crate) fn damaged(record: &[u8]) -> Vec<u8> {
    let mut copy = record.to_vec();
    let middle = copy.len() / 2;
    copy[middle] ^= 0x10;
    copy
}
