import { fileURLToPath } from 'node:url';

// Development builds of React and of Grafana's packages: they say what is wrong
// with a dashboard instead of drawing nothing.
export default {
  define: { 'process.env.NODE_ENV': '"development"', 'process.env': '{}', global: 'globalThis' },
  resolve: {
    alias: {
      // Its build is not an ES module; a plain box scrolls as well.
      'react-custom-scrollbars-2': fileURLToPath(new URL('./src/scrollbars.js', import.meta.url)),
    },
  },
  esbuild: { jsx: 'automatic' },
  optimizeDeps: { esbuildOptions: { define: { global: 'globalThis' } } },
  logLevel: 'warn',
};
