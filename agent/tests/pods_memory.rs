//! What it takes to know the names of a full node. One test, in a process of its own: all memory is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent::pods::{self, Sources};
use serde_json::{Value, json};
use testkit::apiserver::{ApiServer, NODE, owned_by, pod};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes in use, and the most there were.
struct Counted;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; only sizes are noted.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller keeps to the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Kubernetes' own limit is 110 by default, and large nodes are set to 250.
const PODS: usize = 250;
const LIMIT: usize = 10 * 1024 * 1024;

/// As large as real ones: three containers with variables and mounts, annotations, managed fields.
fn real_pod(number: usize) -> Value {
    let uid = format!("{number:08}-0c3b-4e7d-9f21-6b5c4d3e2f10");
    let ids: Vec<String> = (0..3)
        .map(|container| format!("{:064x}", 1000 * number + container))
        .collect();
    let containers = [
        (ids[0].as_str(), "web"),
        (ids[1].as_str(), "proxy"),
        (ids[2].as_str(), "log"),
    ];
    let name = format!("storefront-6d4cf56db6-{number:05}");
    let mut object = owned_by(
        pod(&uid, "shop", &name, &containers),
        "apps/v1",
        "ReplicaSet",
        "storefront-6d4cf56db6",
        "rs-uid",
    );
    let environment: Vec<Value> = (0..20)
        .map(|variable| json!({"name": format!("STOREFRONT_VARIABLE_{variable}"), "value": "x".repeat(40)}))
        .collect();
    let containers: Vec<Value> = ["web", "proxy", "log"]
        .iter()
        .map(|name| {
            json!({"name": name, "image": "registry.example/storefront:1.2.3", "env": environment,
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
        })
        .collect();
    object["spec"] = json!({"nodeName": NODE, "containers": containers});
    object["metadata"]["annotations"] = json!({"example.com/configuration": "y".repeat(2000)});
    let fields: Value = (0..60)
        .map(|field| (format!("f:field-{field}"), json!({"f:name": {}})))
        .collect();
    object["metadata"]["managedFields"] = json!([{"manager": "kubelet", "operation": "Update",
        "apiVersion": "v1", "time": "2026-11-22T16:16:40Z", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    object
}

#[tokio::test]
async fn the_names_of_a_full_node_take_less_than_10_mib() {
    let server = ApiServer::start();
    let mut size = 0;
    for number in 0..PODS {
        let pod = real_pod(number);
        size += pod.to_string().len();
        server.apply(pod);
    }
    server.compact();
    assert!(
        size / PODS > 8_000,
        "{} bytes a pod are no real size",
        size / PODS
    );

    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let sources = Sources::find(Some(NODE), Some(&server.kubeconfig())).await;
    let (sender, mut directory) = watch::channel(Arc::default());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(pods::run(sources, sender, shutdown.clone()));
    let all = directory
        .wait_for(|directory| directory.pods.len() == PODS && directory.containers.len() == 3 * PODS);
    let all = tokio::time::timeout(Duration::from_mins(1), all).await;
    all.expect("names of all pods").expect("it runs");
    let (held, peak) = (USED.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed));
    println!(
        "{PODS} pods of {} bytes: {} KiB at most, {} KiB then",
        size / PODS,
        (peak - before) / 1024,
        held.saturating_sub(before) / 1024
    );
    // With what the API server of the test needs to answer.
    assert!(peak - before < LIMIT, "{} bytes", peak - before);
    shutdown.cancel();
    running.await.expect("it ends");
}
