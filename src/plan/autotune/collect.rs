//! The products of graphs, found by launching every node as a plan does, at its largest row counts.

use crate::gpu::{Device, split_rows};
use crate::graph::{Dispatch, Graph, Origin, ValueId};
use crate::kernel::{Class, Kernel, Tuning};
use crate::plan::launches::{MOST, launch};

/// The classes of all products and the share of each in their estimated time, the largest first.
pub(super) fn classes(graphs: &[Graph], device: &Device) -> Vec<(Class, f64)> {
    let tuning = Tuning::listening();
    let _ = dispatches(graphs, device, &tuning);
    let mut classes: Vec<(Class, f64)> = Vec::new();
    for class in tuning.asked() {
        match classes.iter_mut().find(|(known, _)| *known == class) {
            Some((_, work)) => *work += class.work(),
            None => classes.push((class, class.work())),
        }
    }
    let total: f64 = classes.iter().map(|(_, work)| work).sum();
    classes.iter_mut().for_each(|(_, work)| *work /= total);
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes
}

/// The kernels that the graphs dispatch on a device that is tuned so.
pub(super) fn kernels(graphs: &[Graph], device: &Device, tuning: &Tuning) -> Vec<(&'static Kernel, Vec<(&'static str, f64)>)> {
    dispatches(graphs, device, tuning).into_iter().map(|dispatch| (dispatch.kernel, dispatch.constants)).collect()
}

fn dispatches(graphs: &[Graph], device: &Device, tuning: &Tuning) -> Vec<Dispatch> {
    let of_graph = |graph: &Graph| -> Vec<Dispatch> {
        let parts = |id: ValueId| match graph[id].origin {
            Origin::Weight => {
                let tensor = graph[id].tensor;
                let rows = tensor.shape.rows.max();
                split_rows(rows, tensor.max_bytes() / rows.max(1), device.max_binding())
            }
            _ => vec![0],
        };
        (0..graph.nodes().len()).flat_map(|node| launch(graph, &parts, &device.facts, tuning, node, &MOST)).collect()
    };
    graphs.iter().flat_map(of_graph).collect()
}
