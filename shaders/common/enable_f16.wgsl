// Directives stand before all declarations, so this part comes first. Needs SHADER_F16.
enable f16;
