// Directives stand before all declarations, so this part comes first. Needs EXPERIMENTAL_COOPERATIVE_MATRIX.
enable wgpu_cooperative_matrix;
