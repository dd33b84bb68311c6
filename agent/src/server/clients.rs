//! Who is connected, and who has to go when there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::{AbortHandle, Id};

/// What a client has done so far, as its connection's task notes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity {
    /// One clock for all clients: how many answers were taken by any client.
    clock: Arc<AtomicU64>,
    /// The clock at this client's latest answer; 0 if it has taken none yet.
    latest: Arc<AtomicU64>,
}

impl Activity {
    /// The client has taken a whole answer.
    pub(super) fn answered(&self) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        self.latest.store(now, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Client {
    connection: AbortHandle,
    activity: Activity,
    /// How many came before it.
    arrival: u64,
}

/// Open connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: HashMap<Id, Client>,
    clock: Arc<AtomicU64>,
    arrivals: u64,
}

impl Clients {
    /// The notes of a client to be.
    pub(super) fn activity(&self) -> Activity {
        Activity {
            clock: Arc::clone(&self.clock),
            latest: Arc::default(),
        }
    }

    pub(super) fn add(&mut self, connection: AbortHandle, activity: Activity) {
        self.arrivals += 1;
        let client = Client {
            connection,
            activity,
            arrival: self.arrivals,
        };
        self.open.insert(client.connection.id(), client);
    }

    pub(super) fn remove(&mut self, id: Id) {
        self.open.remove(&id);
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Ends the connection that is missed least: of those that never took an answer the oldest, or else the one that has
    /// not taken any for longest. So clients that only sit there displace each other, and never a poller.
    pub(super) fn displace_one(&mut self) {
        let least = self.open.iter().min_by_key(|(_, client)| {
            let latest = client.activity.latest.load(Ordering::Relaxed);
            (latest, client.arrival)
        });
        if let Some(id) = least.map(|(id, _)| *id)
            && let Some(client) = self.open.remove(&id)
        {
            client.connection.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn those_who_never_took_an_answer_go_first_and_then_those_who_did_longest_ago() {
        let mut clients = Clients::default();
        let mut tasks = JoinSet::new();
        let mut arrive = |clients: &mut Clients| {
            let activity = clients.activity();
            let connection = tasks.spawn(pending::<()>());
            let id = connection.id();
            clients.add(connection, activity.clone());
            (id, activity)
        };
        let [poller, silent, rare, newest] = [(); 4].map(|()| arrive(&mut clients));
        rare.1.answered();
        poller.1.answered();
        let order = [&silent, &newest, &rare, &poller];
        for (gone, (id, _)) in order.iter().enumerate() {
            assert!(clients.open.contains_key(id), "{gone}");
            clients.displace_one();
            assert!(!clients.open.contains_key(id), "{gone}");
        }
        clients.displace_one();
        assert_eq!(clients.len(), 0);
        let ended = tasks.join_next().await.unwrap();
        assert!(ended.unwrap_err().is_cancelled(), "its task is ended");
    }
}
