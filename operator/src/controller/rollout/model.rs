//! The rules in a model of a cluster, in thousands of orders of events.

use super::fixtures::{NOW, SERVES, at, fails, no_room};
use super::fleet::Fleet;
use super::surge::{Leave, Replace, may_leave, may_replace};

/// A cluster of some nodes, and a controller that does with `DaemonSets` what that of Kubernetes does, in any order.
struct Model {
    spec: u8,
    /// For how many pods each node has room.
    room: [usize; NODES],
    agents: Set,
    surge: Option<Set>,
    /// Whether what fails has failed for long.
    late: bool,
    random: u64,
}

#[derive(Default)]
struct Set {
    template: u8,
    observed: bool,
    /// By node.
    pods: Vec<Option<ModelPod>>,
}

#[derive(Clone, Copy)]
struct ModelPod {
    template: u8,
    placed: bool,
    ready: bool,
    leaving: bool,
}

const NODES: usize = 3;

/// No agent of it is ever ready.
fn is_bad(template: u8) -> bool {
    template % 3 == 2
}

impl Set {
    fn of(template: u8) -> Self {
        Self {
            template,
            observed: false,
            pods: vec![None; NODES],
        }
    }

    fn serves(&self, node: usize) -> bool {
        self.pods[node].is_some_and(|pod| pod.ready && !pod.leaving)
    }

    fn takes_room(&self, node: usize) -> bool {
        self.pods[node].is_some_and(|pod| pod.placed)
    }

    /// What `Fleet::of` would say of it.
    fn fleet(&self, late: bool) -> Fleet {
        let since = if late { 0 } else { NOW };
        let here = |pod: &Option<ModelPod>| pod.filter(|pod| !pod.leaving);
        let pods = || self.pods.iter().enumerate();
        Fleet {
            complete: self.observed && pods().all(|(_, pod)| here(pod).is_some()),
            updated: pods().all(|(_, pod)| pod.is_none_or(|pod| pod.template == self.template)),
            desired: NODES,
            ready: (0..NODES).filter(|node| self.serves(*node)).count(),
            nodes: pods()
                .filter_map(|(node, pod)| {
                    let state = match here(pod)? {
                        ModelPod { ready: true, .. } => SERVES,
                        ModelPod { placed: true, .. } => fails(since),
                        _ => no_room(since),
                    };
                    Some((node.to_string(), state))
                })
                .collect(),
            lost_in: None,
        }
    }

    /// What the controller of `DaemonSets` does with one node.
    fn control(&mut self, node: usize, max_unavailable: usize) {
        self.observed = true;
        let unavailable = (0..NODES).filter(|node| !self.serves(*node)).count();
        let template = self.template;
        match &mut self.pods[node] {
            empty @ None => {
                *empty = Some(ModelPod {
                    template,
                    placed: false,
                    ready: false,
                    leaving: false,
                });
            }
            Some(pod) if pod.template != template && (!pod.ready || unavailable < max_unavailable) => {
                pod.leaving = true;
            }
            Some(_) => {}
        }
    }

    /// What scheduler and kubelet do.
    fn run(&mut self, node: usize, has_room: bool) {
        match &mut self.pods[node] {
            Some(pod) if pod.leaving => self.pods[node] = None,
            Some(pod) if pod.placed => pod.ready = !is_bad(pod.template),
            Some(pod) => pod.placed = has_room,
            None => {}
        }
    }
}

impl Model {
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap() % below
    }

    fn serves(&self, node: usize) -> bool {
        self.agents.serves(node) || self.surge.as_ref().is_some_and(|set| set.serves(node))
    }

    fn operate(&mut self) {
        let agents = self.agents.fleet(self.late);
        let surge = self.surge.as_ref().map(|set| set.fleet(self.late));
        if self.agents.template == self.spec {
            if let Some(surge) = surge
                && may_leave(true, &agents, &surge, at(NOW)) == Leave::Now
            {
                self.surge = None;
            }
            return;
        }
        match may_replace(&agents, surge.as_ref(), at(NOW)) {
            Replace::Now => (self.agents.template, self.agents.observed) = (self.spec, false),
            // As they are not the same, others come instead.
            Replace::Later {
                start_surge: true, ..
            } if self.surge.as_ref().map(|set| set.template) != Some(self.spec) => {
                self.surge = Some(Set::of(self.spec));
            }
            Replace::Later { .. } => {}
        }
    }

    fn step(&mut self) {
        let node = self.draw(NODES);
        let sets = [Some(&self.agents), self.surge.as_ref()].into_iter().flatten();
        let has_room = sets.filter(|set| set.takes_room(node)).count() < self.room[node];
        match self.draw(5) {
            0 => self.operate(),
            1 => self.agents.control(node, 1),
            2 => self.agents.run(node, has_room),
            3 => self.surge.iter_mut().for_each(|set| set.control(node, 1)),
            _ => self.surge.iter_mut().for_each(|set| set.run(node, has_room)),
        }
    }

    fn is_done(&self) -> bool {
        let agents = &self.agents;
        self.surge.is_none()
            && agents.template == self.spec
            && (0..NODES).all(|node| {
                agents.serves(node) && agents.pods[node].is_some_and(|pod| pod.template == self.spec)
            })
    }
}

/// Specs come and go at any time, also specs whose agents fail, and some nodes have room for one pod only. Until a pod has waited
/// for long, no node that is served is ever without an agent. A good spec that stays is everywhere in the end.
#[test]
fn no_order_of_events_leaves_a_node_without_or_hangs() {
    for seed in 1..=2000 {
        let mut agents = Set::of(0);
        for node in 0..NODES {
            agents.control(node, 1);
            agents.run(node, true);
            agents.run(node, true);
        }
        let mut model = Model {
            spec: 0,
            room: [2; NODES],
            agents,
            surge: None,
            late: false,
            random: seed,
        };
        if seed % 2 == 0 {
            model.room = [(); NODES].map(|()| 1 + model.draw(2));
        }
        for step in 0..400 {
            if model.draw(40) == 0 {
                model.spec = u8::try_from(model.draw(6)).unwrap();
            }
            model.step();
            assert!(
                (0..NODES).all(|node| model.serves(node)),
                "seed {seed}, step {step}"
            );
        }
        model.spec = 3 * u8::try_from(model.draw(2)).unwrap();
        let mut steps = 0;
        while !model.is_done() {
            // What helps in the end is that time passes.
            model.late = steps > 2000;
            model.step();
            steps += 1;
            assert!(steps < 10_000, "seed {seed}");
        }
    }
}
