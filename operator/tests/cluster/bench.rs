//! What the operator takes, on the same control plane (`make bench`): not tests, they judge nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::{OPERATOR_USER, World, it_waits_for_its_definition, restart, spec};

/// Resources, each with one node of its own.
const RESOURCES: [usize; 3] = [1, 50, 200];
/// Nodes of one resource.
const NODES: usize = 5000;
/// At rest.
const REST: Duration = Duration::from_secs(10);
/// How many requests of ours are under way at once.
const CONCURRENCY: usize = 16;

/// Measures everything, and prints it in Markdown.
pub(crate) async fn measure(world: &mut World) -> Result<()> {
    it_waits_for_its_definition(world).await?;
    println!(
        "| on the cluster | ready after, s | reconciles | own time of each, mean, ms | p99 at most, ms | writes | RSS, MB | \
         peak RSS, MB | CPU at rest, % of a core |"
    );
    println!("| --- | --: | --: | --: | --: | --: | --: | --: | --: |");
    for count in RESOURCES {
        let names: Vec<String> = (1..=count).map(|number| format!("of-{count}-{number}")).collect();
        for name in &names {
            world.add_nodes(name, 1).await?;
        }
        // So that peaks and sums begin here.
        restart(world).await?;
        measure_rollout(
            world,
            &format!("{count} resources of one node each"),
            &names,
            &json!({}),
        )
        .await?;
        for name in &names {
            world.delete(name).await?;
        }
    }
    let nodes = Api::<Node>::all(world.admin());
    stream::iter(1..=NODES)
        .map(|number| {
            let nodes = nodes.clone();
            async move {
                let node = serde_json::from_value(json!({
                    "metadata": {
                        "name": format!("large-{number}"),
                        "labels": {"kubernetes.io/os": "linux", "pool": "large"},
                    },
                }))?;
                nodes.create(&PostParams::default(), &node).await?;
                Ok::<_, anyhow::Error>(())
            }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    restart(world).await?;
    let strategy = json!({"updateStrategy": {"maxUnavailable": "50%"}});
    let name = format!("1 resource of {NODES} nodes");
    measure_rollout(world, &name, &["large".to_owned()], &strategy).await
}

/// From the creation of these resources until all their agents are ready, and then at rest.
async fn measure_rollout(
    world: &mut World,
    what: &str,
    names: &[String],
    more: &serde_json::Value,
) -> Result<()> {
    let writes_before = writes(world)?;
    let start = Instant::now();
    for name in names {
        let mut spec = spec(name);
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        world.create(name, spec).await?;
    }
    for name in names {
        loop {
            match world.wait_for(name, "Ready=True/AgentsReady").await {
                Ok(_) => break,
                // Each node takes three writes of its kubelet.
                Err(error) if start.elapsed() > Duration::from_mins(10) => return Err(error),
                Err(_) => {}
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let operator = world.operator()?;
    let metric = |name: &str| operator.metric(&format!("scope_http_statistics_operator_{name}"));
    let reconciles = metric("reconcile_own_seconds_count")?;
    let own = metric("reconcile_own_seconds_sum")? / reconciles * 1e3;
    let (_, metrics) = operator.get("/metrics")?;
    let p99 = crate::percentile(&metrics)? * 1e3;
    let megabytes =
        |kibibytes: u64| -> Result<f64> { Ok(f64::from(u32::try_from(kibibytes)?) * 1024.0 / 1e6) };
    let (rss, peak) = (
        megabytes(operator.memory("VmRSS:")?)?,
        megabytes(operator.peak_memory()?)?,
    );
    let ticks = operator.clock_ticks()?;
    tokio::time::sleep(REST).await;
    let rest = f64::from(u32::try_from(operator.clock_ticks()? - ticks)?) / REST.as_secs_f64();
    let writes = writes(world)? - writes_before;
    println!(
        "| {what} | {seconds:.1} | {reconciles} | {own:.2} | {p99:.1} | {writes} | {rss:.1} | {peak:.1} | {rest:.1} |"
    );
    Ok(())
}

/// Of the operator since the beginning; 0 on a cluster that is not ours, which has no audit log for us.
fn writes(world: &World) -> Result<usize> {
    if !world.cluster.is_own() {
        return Ok(0);
    }
    let writes = world.cluster.writes(OPERATOR_USER).context("no audit log")?;
    Ok(writes.len())
}
