import { createElement, forwardRef } from 'react';

/** Stands in for react-custom-scrollbars-2. */
export const Scrollbars = forwardRef(function Scrollbars({ children, style, className }, ref) {
  return createElement('div', { ref, className, style: { overflow: 'hidden', width: '100%', height: '100%', ...style } }, children);
});
export default Scrollbars;
